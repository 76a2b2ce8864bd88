"""The page about runs, read back as a browser would, and the comparison of two."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from evaluate.files import BOXES, CASES, write_all
from qvl.cli import main
from qvl.data.sample import read_split, write_shard
from qvl.evaluate.compare import compare
from qvl.evaluate.results.collect import by_language, collect
from qvl.evaluate.run import rescore

TASKS = ("vqav2", "okvqa", "textvqa", "refcoco-val", "scienceqa", "cmmlu", "mme-cognition", "vizwiz-test")


def answer(folder: Path, answers: tuple[str, ...]) -> None:
    path = folder / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**r, "answer": a}) + "\n" for r, a in zip(rows, answers, strict=True)))
    rescore(folder)


@pytest.fixture(scope="module")
def runs(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on the same data: the second finds every box and is otherwise the same."""
    root = tmp_path_factory.mktemp("results")
    write_all(root / "data")
    for name in ("first", "second"):
        flags = ["--model", str(checkpoint_dir), "--data", str(root / "data"), "--out", str(root / name)]
        assert main(["eval", *TASKS, *flags]) == 0
        assert main(["eval", "okvqa", *flags, "--shots", "1", "2"]) == 0
        for task in TASKS:
            if task in CASES:
                answer(root / name / task, CASES[task].answers)
    answer(root / "second" / "refcoco-val", (BOXES.answers[0],) * 3)
    return root / "first", root / "second"


def test_two_runs_are_compared_question_by_question(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {one.name: one for one in compare(*runs)}
    assert "vizwiz-test" not in found
    boxes = found["refcoco-val"]
    assert (boxes.a, boxes.b, boxes.better, boxes.worse) == (pytest.approx(100 / 3), 100, 2, 0)
    assert boxes.difference.mean == pytest.approx(200 / 3)
    assert found["vqav2"].difference.p == 1.0
    assert main(["eval", "compare", *map(str, runs)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"refcoco-val +33\.33 +100\.00 +\+66\.67", shown)
    answers = runs[1] / "vqav2" / "predictions.jsonl"
    whole = answers.read_text()
    answers.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert main(["eval", "compare", *map(str, runs)]) == 4
    answers.write_text(whole)
    assert main(["eval", "compare", str(runs[0]), str(runs[0] / "okvqa")]) == 0


def test_the_page_shows_scores_beside_the_published_ones(runs: tuple[Path, Path]) -> None:
    assert main(["eval", "report", *map(str, runs)]) == 0
    page = (runs[0] / "results.html").read_text(encoding="utf-8")
    text = (runs[0] / "results.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| refcoco-val | val of refcoco |"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[4:8:3] == ["33.33", "1"]
    assert cells[8] == "100.00"
    assert cells[-3:-1] == ["89.36", "88.55"]
    assert "Text in pictures (Table 5)" in page
    assert page.count("<svg") > 4  # radar, few-shot curves, boxes over pictures
    assert 'src="http' not in page, "one file, nothing to load"
    values = json.loads((runs[0] / "results.json").read_text())
    assert values["runs"][1]["benchmarks"]["refcoco-val"]["score"] == 100
    assert values["runs"][0]["benchmarks"]["refcoco-val"]["published"]["Qwen-VL"] == 89.36
    assert values["comparisons"]


def test_a_report_without_its_data_says_so(runs: tuple[Path, Path]) -> None:
    data = runs[0].parent / "data"
    data.rename(data.with_name("elsewhere"))
    try:
        assert main(["eval", "report", str(runs[0])]) == 0
        page = (runs[0] / "results.html").read_text(encoding="utf-8")
        assert "its pictures can&#x27;t be shown" in page or "its pictures can't be shown" in page
        assert "33.33" in page
    finally:
        data.with_name("elsewhere").rename(data)


def test_languages_are_told_apart(runs: tuple[Path, Path], checkpoint_dir: Path, split_dir: Path) -> None:
    results = collect(runs[0]).results
    assert set(by_language(results["vqav2"])) == {"en"}
    assert set(by_language(results["cmmlu"])) == {"zh"}
    out = runs[0].parent / "world"
    assert main(["eval", "world-vqa", "--model", str(checkpoint_dir), "--data", str(split_dir), "--out", str(out)]) == 0
    assert set(by_language(collect(out).results["world-vqa"])) == {"en", "zh"}


def test_samples_are_found_by_whatever_ids_they_have(checkpoint_dir: Path, split_dir: Path, tmp_path: Path) -> None:
    own = [replace(sample, id=f"mine/{sample.id}") for sample in read_split(split_dir) if sample.task == "vqa"]
    write_shard(own, tmp_path / "data" / "own.parquet")
    flags = ["--model", str(checkpoint_dir), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main(["eval", "world-vqa", *flags]) == 0
    assert main(["eval", "report", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "results.html").read_text(encoding="utf-8").count("<figure>") == len(own)
