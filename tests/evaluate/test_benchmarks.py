"""Every benchmark from files in its own format to a score, as a user runs it."""

import json
from pathlib import Path

import pytest

from evaluate.files import CASES, picture, write_all, write_json
from qvl.cli import main
from qvl.errors import UsageError
from qvl.evaluate.benchmarks import BENCHMARKS, BY_NAME, chosen
from qvl.evaluate.check import READY, check
from qvl.evaluate.run import Asked, read_items, rescore
from qvl.evaluate.scorers import SUBMISSIONS, letter_of

ASKED = [b.name for b in BENCHMARKS if not b.name.startswith("world")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_all(root)
    return root


@pytest.fixture(scope="module")
def run(data: Path, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything answered by an untrained model."""
    out = tmp_path_factory.mktemp("run")
    asked = [name for name in ASKED if not name.startswith("touchstone")]
    flags = ["--model", str(checkpoint_dir), "--data", str(data), "--out", str(out), "--batch-size", "32"]
    assert main(["eval", *asked, *flags]) == 0
    return out


def put_answers(folder: Path, answers: tuple[str, ...]) -> None:
    """Other answers to the same questions."""
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [json.dumps({**row, "answer": answer}) for row, answer in zip(rows, answers, strict=True)]
    path.write_text("\n".join(lines) + "\n")


def test_all_data_is_found(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {one.name: one for one in check([BY_NAME[name] for name in ASKED], data)}
    assert {one.state for one in found.values()} == {READY}, [one for one in found.values() if one.state != READY]
    assert found["vqav2"].questions == 4
    assert main(["eval", "--check", "--data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert f"{len(ASKED)} of {len(BENCHMARKS)} benchmarks are ready" in shown
    assert f"get {data}/world/test from" in shown


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_worked_out_by_hand(run: Path, name: str) -> None:
    put_answers(run / name, CASES[name].answers)
    scores = rescore(run / name)
    assert scores["score"] == pytest.approx(CASES[name].score, abs=1e-6)
    assert scores["unparsed"] == CASES[name].unparsed
    low, high = scores["interval"]
    assert low <= scores["score"] <= high
    assert json.loads((run / name / "scores.json").read_text()) == scores


def test_every_test_benchmark_has_scores_or_a_file_to_submit(run: Path) -> None:
    for name in ASKED:
        if name in CASES or name.startswith("touchstone"):
            continue
        metric = BY_NAME[name].metric
        assert metric in SUBMISSIONS, name
        rows = json.loads((run / name / "submission.json").read_text())
        keys = {"submit_vqa": "question_id", "submit_vizwiz": "image", "submit_docvqa": "questionId"}
        assert all(keys.get(metric, "example_id") in row for row in rows)
        assert len(rows) == rescore(run / name)["questions"]


def test_prompts_are_the_published_ones(run: Path) -> None:
    def prompt(name: str) -> str:
        return str(json.loads((run / name / "predictions.jsonl").read_text().splitlines()[0])["question"])

    assert prompt("nocaps") == "<img></img>Describe the image in English:"
    assert prompt("vqav2") == "<img></img>What is thing 0? Answer:"
    assert (
        prompt("scienceqa")
        == "<img></img>Context: It is late.\nQuestion: Which is it?\nOptions: A. yes\nB. no\nC. both\nAnswer:"
    )
    assert prompt("refcoco-val") == "<img></img><ref>thing 0</ref>"
    assert prompt("seed-bench-video").startswith("<img></img>\n" * 4 + "Question: How many?\nOptions: A. option a\nB.")
    assert prompt("mme-perception") == "<img></img>\nIs it 0? Please answer yes or no."
    assert prompt("mmlu").startswith("The following are multiple choice questions (with answers) about anatomy.\n\n")
    assert prompt("mmlu").endswith("Question: Question 0?\nA. 7\nB. b\nC. c\nD. d\nAnswer:")
    assert prompt("ceval").endswith("问题：Question 0?\nA. 7\nB. b\nC. c\nD. d\n答案：")


def test_only_held_out_rows_are_asked(data: Path) -> None:
    for name, count in (("scienceqa", 3), ("ocrvqa", 3), ("ai2d", 2), ("flickr30k", 3), ("refcocog-val", 3)):
        items, total = read_items(BY_NAME[name], data, Asked())
        assert (len(items), total) == (count, count), name


def test_families_and_typing_mistakes() -> None:
    assert [b.name for b in chosen(["refcoco+", "refcoco+-val"])] == [
        "refcoco+-val",
        "refcoco+-testA",
        "refcoco+-testB",
    ]
    assert len(chosen(["all"])) == len(BENCHMARKS)
    with pytest.raises(UsageError, match="did you mean textvqa"):
        chosen(["texvqa"])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        (" b. two", "B"),
        ("(C) three", "C"),
        ("The answer is D.", "D"),
        ("答案是B", "B"),
        ("A dog", ""),
        ("I am sure", ""),
        ("", ""),
        ("E)", "E"),
    ],
)
def test_a_letter_is_read_only_where_one_is_said(answer: str, letter: str) -> None:
    assert letter_of(answer) == letter


BROKEN = [
    ("vqav2", "vqav2/v2_mscoco_val2014_annotations.json", "{", "not JSON"),
    ("vqav2", "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": []}, "questions without an answer"),
    (
        "vqav2",
        "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
        {"data_subtype": "val2014", "questions": []},
        "which v2_OpenEnded_mscoco_val2014_questions.json does not ask",
    ),
    ("textvqa", "textvqa/TextVQA_0.5.1_val.json", {"data": [{"question_id": 1}] * 2}, "row 1: question_id 1 is there twice"),
    ("docvqa", "docvqa/val_v1.0.json", {"data": [{"questionId": 1, "question": "?"}]}, "question 1: has no 'image'"),
    ("gqa", "gqa/testdev_balanced_questions.json", {"1": {"imageId": "gone", "question": "?", "answer": "a"}}, "gone.jpg"),
    ("nocaps", "nocaps/nocaps_val_4500_captions.json", {"images": [], "annotations": [{"image_id": 3, "caption": "x"}]},
     "annotation 0: no picture has the id 3"),
    ("mme-cognition", "mme/Your_Results/code_reasoning.txt", "a.jpg\tIs it?\tMaybe\nb", "line 1: not picture"),
    ("scienceqa", "scienceqa/problems.json", {"1": {"split": "test", "image": "i.png", "choices": ["a"], "answer": 3}},
     "problem 1"),
    ("ceval", "ceval/val/law_val.csv", "id,question,A\n1,2,3\n", "lacks a column"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "content", "said"), BROKEN, ids=lambda value: str(value)[:20])
def test_wrong_data_is_named_before_anything_is_asked(
    name: str,
    path: str,
    content: object,
    said: str,
    checkpoint_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_all(tmp_path / "data")
    (tmp_path / "data" / path).write_text(content if isinstance(content, str) else json.dumps(content))
    flags = ["--model", str(checkpoint_dir), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main(["eval", name, *flags]) == 4
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert Path(path).name.split(".")[0] in error[0]
    assert said in error[0]
    assert not (tmp_path / "out").exists()


def test_a_broken_picture_is_named_with_its_question(
    checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "gqa/images/a.jpg")
    (tmp_path / "gqa/images/b.jpg").write_bytes(b"no picture")
    rows = {key: {"question": "?", "imageId": key, "answer": "a"} for key in "ab"}
    write_json(tmp_path / "gqa/testdev_balanced_questions.json", rows)
    flags = [
        "--model",
        str(checkpoint_dir),
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--batch-size",
        "1",
    ]
    assert main(["eval", "gqa", *flags]) == 4
    assert "question b: " in (said := capsys.readouterr().err)
    assert "b.jpg" in said
