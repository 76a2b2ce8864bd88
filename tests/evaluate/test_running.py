"""Answers that survive kills and do not depend on batches, threads, processes, or where the model runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qvl
from evaluate.files import choices, coco_questions, touchstone, write_all
from evaluate.server import answered_by, serving
from qvl.cli import main
from qvl.evaluate.answering import LocalModel
from qvl.evaluate.benchmarks import BY_NAME
from qvl.evaluate.items import choose
from qvl.evaluate.predictions import PREDICTIONS_NAME
from qvl.evaluate.run import Asked, read_items, read_rows

TASKS = ["vqav2", "okvqa", "scienceqa", "seed-bench-video"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_all(root)
    return root


def run(data: Path, model: object, out: Path, *flags: str, tasks: list[str] = TASKS) -> dict[str, bytes]:
    """Every file of answers and scores that a run writes."""
    assert main(["eval", *tasks, "--model", str(model), "--data", str(data), "--out", str(out), *flags]) == 0
    return files_of(out)


def files_of(out: Path) -> dict[str, bytes]:
    names = (PREDICTIONS_NAME, "scores.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.name in names}


@pytest.fixture(scope="module")
def plain(data: Path, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = run(data, checkpoint_dir, tmp_path_factory.mktemp("plain"), "--batch-size", "16")
    assert len(found) == 2 * len(TASKS)
    return found


@pytest.mark.parametrize("flags", [("--batch-size", "1"), ("--batch-size", "3", "--workers", "4")])
def test_batches_and_threads_change_nothing(
    data: Path, checkpoint_dir: Path, tmp_path: Path, plain: dict[str, bytes], flags: tuple[str, ...]
) -> None:
    assert run(data, checkpoint_dir, tmp_path, *flags) == plain


@pytest.mark.timeout(300)
def test_two_processes_change_nothing(
    data: Path, checkpoint_dir: Path, tmp_path: Path, plain: dict[str, bytes]
) -> None:
    flags = ["--model", str(checkpoint_dir), "--data", str(data), "--out", str(tmp_path), "--ranks", "2"]
    subprocess.run([sys.executable, "-m", "qvl", "eval", *TASKS, *flags], check=True, timeout=240)
    assert files_of(tmp_path) == plain


@pytest.mark.timeout(300)
def test_a_killed_run_goes_on(data: Path, checkpoint_dir: Path, tmp_path: Path, plain: dict[str, bytes]) -> None:
    """SIGKILL as soon as some answers are there; no question is answered twice, none is lost."""
    flags = ["--model", str(checkpoint_dir), "--data", str(data), "--out", str(tmp_path), "--batch-size", "1"]
    with subprocess.Popen([sys.executable, "-m", "qvl", "eval", *TASKS, *flags], stderr=subprocess.DEVNULL) as process:
        part = tmp_path / "vqav2" / "predictions.part-0.jsonl"
        while process.poll() is None and not (part.exists() and part.read_bytes().count(b"\n") >= 1):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    answered = part.read_text().splitlines()
    assert 1 <= len(answered) < 4
    with part.open("a") as file:
        file.write('{"id": "103", "ans')  # as if it had died while it wrote
    before = [line for line in answered if line.endswith("}")]
    assert run(data, checkpoint_dir, tmp_path, "--batch-size", "1") == plain
    after = (tmp_path / "vqav2" / PREDICTIONS_NAME).read_text().splitlines()
    assert len(after) == 4
    assert set(before) <= set(after)
    assert not list(tmp_path.rglob("*part*"))


def test_a_finished_run_is_not_asked_again_and_another_model_is_refused(
    data: Path, checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, checkpoint_dir, tmp_path, tasks=["scienceqa"])
    before = (tmp_path / "scienceqa" / PREDICTIONS_NAME).stat().st_mtime_ns
    run(data, checkpoint_dir, tmp_path, tasks=["scienceqa"])
    assert (tmp_path / "scienceqa" / PREDICTIONS_NAME).stat().st_mtime_ns == before
    flags = ["--model", str(checkpoint_dir), "--data", str(data), "--out", str(tmp_path), "--chat"]
    capsys.readouterr()
    assert main(["eval", "scienceqa", *flags]) == 2
    assert "holds answers with another as_chat (as_chat: False, now True)" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["vqav2", "scienceqa", "gqa", "okvqa"])
def test_a_server_gives_the_scores_of_the_model_in_this_process(
    data: Path, checkpoint_dir: Path, tmp_path: Path, task: str
) -> None:
    shots = ("--shots", "2") if task == "okvqa" else ()
    here = run(data, checkpoint_dir, tmp_path / "here", "--chat", *shots, tasks=[task])
    loaded = qvl.load(checkpoint_dir)
    model = LocalModel(loaded.model, loaded.tokenizer)
    with serving(answered_by(model)) as url:
        there = run(data, "tiny", tmp_path / "there", "--server", url, "--workers", "3", *shots, tasks=[task])
    assert there.keys() == here.keys()
    assert there == here


def test_a_server_that_fails_ends_the_run_with_its_answers_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coco_questions(tmp_path)
    monkeypatch.setattr("qvl.data.chat_server.RETRIES", 0)
    asked: list[dict[str, object]] = []

    def reply(request: dict[str, object]) -> str:
        asked.append(request)
        if len(asked) == 3:
            raise ConnectionError("out of memory")
        return "dog"

    flags = ["--model", "m", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]
    with serving(reply) as url:
        assert main(["eval", "vqav2", "--server", url, *flags]) == 2
        assert "refused the request (500: " in capsys.readouterr().err
        assert main(["eval", "vqav2", "--server", url, *flags]) == 0
    assert 5 <= len(asked) <= 6, "only what was not answered is asked again"
    assert main(["eval", "okvqa", "--server", "http://127.0.0.1:9/v1", *flags]) == 4
    assert "no answer" in capsys.readouterr().err


def test_touchstone_is_judged_once(checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touchstone(tmp_path)
    flags = ["--model", "m", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    judged: list[str] = []

    def judge(request: dict[str, object]) -> str:
        assert request["stop"] == ["\n"]
        judged.append(str(request["messages"]))
        return "I like both" if len(judged) == 1 else "4 8"

    with serving(lambda request: "a green square") as url, serving(judge) as judge_url:
        server = ["--server", url, "--workers", "1"]
        assert main(["eval", "touchstone-en", *server, *flags]) == 0
        assert "2 questions; waits for a judge: give --judge URL" in capsys.readouterr().out
        assert main(["eval", "touchstone-en", *server, *flags, "--judge", judge_url]) == 0
        # the model's score is the second number of first rounds, the first of second ones
        assert "600.00" in capsys.readouterr().out
        assert len(judged) == 5
        assert main(["eval", "touchstone-en", *server, *flags, "--judge", judge_url]) == 0
        assert len(judged) == 5
    assert main(["eval", "rescore", str(tmp_path / "out")]) == 0


def test_exemplars_depend_on_question_and_seed_alone(data: Path) -> None:
    benchmark = BY_NAME["okvqa"]
    assert benchmark.exemplars is not None
    train = read_rows(benchmark, benchmark.exemplars, data)
    assert choose(train, 2, 0, "300") == choose(list(train), 2, 0, "300")
    drawn = {tuple(row.id for row in choose(train, 2, seed, f"{i}")) for i in range(9) for seed in range(9)}
    assert len(drawn) == 12, "all ordered pairs of four come about"
    items, _ = read_items(benchmark, data, Asked(shots=2, seed=1))
    held_out = {row.id for row in read_rows(benchmark, benchmark.source, data)}
    assert not held_out & {row.id for row in train}
    for item in items:
        assert [path.parent.name for path in item.pictures if isinstance(path, Path)] == ["train2014"] * 2 + ["val2014"]
        [(role, content)] = item.turns
        assert role == "user"
        assert str(content).count(" Answer: ") == 2


def test_one_question_twice_or_a_missing_picture_ends_it(
    checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices(tmp_path)
    path = tmp_path / "seed-bench" / "SEED-Bench.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"questions": content["questions"] * 2}))
    flags = ["--model", str(checkpoint_dir), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["eval", "seed-bench", *flags]) == 4
    assert "row 5: question_id '100' is there twice" in capsys.readouterr().err
    path.write_text(json.dumps(content))
    os.remove(tmp_path / "seed-bench" / "video_imgs_4" / "104_2.jpg")
    assert main(["eval", "seed-bench", *flags]) == 4
    assert "104_2.jpg of question 104" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["eval", "--check", "seed-bench", "--data", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "1 pictures are not in" in shown
    assert "1 of 2 benchmarks are ready" in shown


def test_a_prompt_too_long_keeps_its_end(data: Path, checkpoint_dir: Path) -> None:
    """MMLU: of more than 2048 tokens the last 2047, of 2048 all."""
    loaded = qvl.load(checkpoint_dir)
    model = LocalModel(loaded.model, loaded.tokenizer)
    [item, *_], _ = read_items(BY_NAME["mmlu"], data, Asked())
    whole = model._prompt(item, None)
    assert model._prompt(item, len(whole) - 1) == whole
    assert model._prompt(item, len(whole) - 2) == whole[2:]
