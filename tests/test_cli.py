"""The command line as a user meets it: one clear line for every mistake, and verbs that work together."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image as PILImage

import qvl
from qvl import cli
from qvl.cli import main
from qvl.generate import terminal
from qvl.generate.request import Step

PRETRAIN = "recipes/tiny/pretrain.toml"


def test_help_fits_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 28
    assert any(line.split()[:1] == ["chat"] for line in lines)


def test_import_and_help_need_no_torch() -> None:
    code = "import sys, qvl, qvl.cli; qvl.cli.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_python_m_qvl_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qvl", "report", "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere: no run here")


def test_a_dry_run_tells_of_the_published_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "recipes/pretrain.toml", "--dry-run", "--ranks", "64", "--out", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = {line[0]: line[1:4] for line in lines if len(line) == 4}
    assert table["vision"] == ["full", "1,842,770,688", "1,842,770,688"]
    assert table["language.blocks"][:2] == ["frozen", "0"]
    assert ["rates", "vision", "1.71e-05", "to", "0.0002"] in [line[:5] for line in lines]
    assert ["a", "step", "30,720", "rows"] in [line[:4] for line in lines]
    assert ["memory", "61.7", "GB", "on", "each", "of", "64", "GPUs"] in [line[:8] for line in lines]
    assert ["time", "3.26e17", "FLOP", "a", "step"] in [[word.strip(",") for word in line[:5]] for line in lines]
    assert not list(tmp_path.iterdir())


def test_a_dry_run_looks_at_the_data_that_are_there(split_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [f"data.split_dirs=['{split_dir.name}']", "data.mixture={vqa = 1.0}", "data.batch_rows=8"]
    flags = [flag for value in values for flag in ("--set", value)]
    assert main(["train", PRETRAIN, "--dry-run", "--out", str(split_dir.parent), *flags]) == 0
    assert "about 8 samples, 8 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["train", "no.toml"], 3, "no such recipe"),
        (["train", PRETRAIN, "--set", "stepz=1"], 3, "did you mean 'steps'"),
        (["train", PRETRAIN, "--ranks", "0"], 2, "--ranks 0: at least 1"),
        (["train", PRETRAIN, "--device", "gpu"], 2, "--device gpu"),
        (["train", PRETRAIN, "--set", "init_from={}", "--out", "{tmp}"], 4, "world-caption needs it"),
        (["eval", "world", "--model", "no-model", "--data", "{split}", "--out", "{tmp}"], 7, "no-model"),
        (["eval", "world", "--model", "{model}", "--data", "{tmp}"], 4, "world/test: world-caption needs it"),
        (["eval", "vqav3", "--model", "{model}"], 2, "did you mean vqav2"),
        (["eval", "--model", "{model}"], 2, "name benchmarks"),
        (["eval", "vqav2"], 2, "give --model DIR"),
        (["eval", "vqav2", "--model", "{model}", "--shots", "-1"], 2, "--shots -1"),
        (["eval", "vqav2", "--model", "{model}", "--batch-size", "0"], 2, "--batch-size 0"),
        (["eval", "compare", "{tmp}"], 2, "two runs, not 1"),
        (["eval", "rescore", "{tmp}"], 2, "holds no answers"),
        (["report", "{tmp}"], 2, "train first"),
        (["chat", "--model", "{tmp}", "--ask", "hi"], 7, "config.json"),
        (["chat", "--model", "{model}", "--ask", "hi", "--image", "no.png"], 5, "no.png: no such image file"),
        (["chat", "--model", "{model}", "--ask", "hi", "--temperature", "-1"], 2, "temperature = -1.0"),
        (["export", "{tmp}", "{tmp}/out"], 6, "qwen.tiktoken"),
        (["data", "lint", "{tmp}"], 4, "no *.parquet shard"),
        (["data", "pdf", "no.pdf", "--out", "{tmp}/ocr"], 2, "no.pdf"),
        (["data", "pdf", "docs", "--out", "{tmp}/ocr"], 2, "docs: no .pdf file found"),
        (["data", "html", "README.md", "--out", "{tmp}/ocr"], 2, "README.md: not a file that is read here"),
        (["data", "html", "http://a.b/", "--out", "{tmp}/ocr"], 2, "read only with --allow-network"),
        (["data", "html", "docs", "--out", "{tmp}/ocr", "--timeout", "0"], 2, "timeout 0.0: give seconds"),
        (["world", "--out", "{tmp}", "--train", "0"], 2, "train = 0"),
        (["world", "--out", "{tmp}", "--dense", "-5"], 2, "--dense -5: at least 1 picture"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_every_mistake_is_one_line_and_its_own_exit_code(
    argv: list[str],
    code: int,
    said: str,
    checkpoint_dir: Path,
    split_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"tmp": str(tmp_path), "model": str(checkpoint_dir), "split": str(split_dir)}
    filled = [part.format(**places) if "{}" not in part else part for part in argv]
    assert main(filled) == code
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: ")
    assert said in error[0]
    assert not list(tmp_path.iterdir()), "nothing half-made stays behind"


def test_a_folder_that_may_not_be_written_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint_dir: Path, split_dir: Path
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    flags = ["--model", str(checkpoint_dir), "--data", str(split_dir), "--out", str(tmp_path / "taken")]
    argv = ["eval", "world-vqa", *flags]
    assert main(argv) == 1
    assert f"error: {tmp_path / 'taken' / 'world-vqa'}: Not a directory" in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(run_dir: Path, split_dirs: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("qvl.evaluate.report.write_report", interrupted)
    assert main(["report", "run"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_train_evaluate_report_and_chat_follow_each_other(
    split_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of stage 1 on a handful of samples, then everything that a user does with a run."""
    run = tmp_path / "runs" / "mine"
    changes = ["init_from={}", "steps=2", "data.batch_rows=2", f"data.split_dirs=['{split_dir}']", "name='sft'"]
    changes += [f"evaluate.data='{split_dir}'"]
    assert main(["train", PRETRAIN, "--out", str(run), *(x for c in changes for x in ("--set", c))]) == 0
    checkpoint = str(run / "sft" / "checkpoint")
    assert f"checkpoint: {checkpoint}" in capsys.readouterr().out
    command = ["eval", "world-vqa", "world-caption", "--model", checkpoint, "--data", str(split_dir), "--limit", "1"]
    assert main([*command, "--out", str(run / "sft" / "eval")]) == 0
    assert "vqa_accuracy; 2 questions of 4, a part" in capsys.readouterr().out
    assert main(["report", str(run), "--data", str(split_dir)]) == 0
    assert Path(capsys.readouterr().out.strip()).stat().st_size > 10_000
    monkeypatch.chdir(tmp_path)
    assert main(["chat", "--ask", "hello"]) == 0, "without a folder the newest run answers"


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "red one.png", tmp_path / "blue.png"]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        PILImage.new("RGB", (64, 48), colour).save(path)
    return [str(path) for path in paths]


def test_a_conversation_in_the_terminal(
    checkpoint_dir: Path,
    pictures: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed = f"/image '{pictures[0]}'\nwhat?\n/image no.png\nand this?\n/reset\n\n/image {pictures[1]}\nnow?\n/quit\nx\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    chat = qvl.load(checkpoint_dir).conversation(max_new_tokens=3)
    terminal.converse(chat, [], tmp_path / "answer.png")
    shown = capsys.readouterr().out
    assert "error: no.png: no such image file" in shown, "a mistake does not end the conversation"
    assert (len(chat.turns), len(chat.pictures)) == (2, 1), "only what came after /reset is left"


def test_boxes_are_drawn_into_the_named_file(
    checkpoint_dir: Path,
    pictures: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chat = qvl.load(checkpoint_dir).conversation()
    ids = chat.tokenizer.encode_published("<ref>sun</ref><box>(100,100),(800,800)</box>")
    steps = [Step(0, token_id) for token_id in ids]
    monkeypatch.setattr("qvl.generate.engine.Engine.stream", lambda *_: iter(steps))
    terminal.ask_once(chat, "where?", pictures[:1], tmp_path / "drawn.png")
    assert f"boxes drawn: {tmp_path / 'drawn.png'}" in capsys.readouterr().out
    with PILImage.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (64, 48)
    with pytest.raises(qvl.QvlError, match=r"drawn\.what"):
        terminal.ask_once(chat, "where?", [], tmp_path / "drawn.what")


def test_a_terminated_run_leaves_nothing_half_written(tmp_path: Path) -> None:
    out = tmp_path / "synth"
    command = ["-m", "qvl", "data", "synth", "--count", "100000", "--fast", "--workers", "1", "--out", str(out)]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    for _ in range(600):
        if out.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not out.exists()


def test_public_names_exist_and_are_sorted() -> None:
    assert len(qvl.__all__) <= 20
    assert all(getattr(qvl, name) is not None for name in qvl.__all__)
    code = "import qvl; qvl.images.preprocess; import qvl.checkpoint; qvl.checkpoint.load_model; qvl.Tokenizer.tiny()"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = qvl.nothing
    assert cli.TINY_RECIPES.is_dir()
