"""The page is read back as a browser would: its tables, its curves, its pictures."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qvl.data.sample import read_split
from qvl.errors import DataError, UsageError
from qvl.evaluate.benchmarks import Decoding, members
from qvl.evaluate.curves import curve_svg, smooth
from qvl.evaluate.gallery import figure_html
from qvl.evaluate.items import Item
from qvl.evaluate.predictions import Reply
from qvl.evaluate.report import read_log, write_report
from qvl.evaluate.run import evaluate
from qvl.evaluate.scoring import TASKS
from qvl.text.markup import Box, to_string

STAGES = ("pretrain", "multitask")
Batches = Iterator[list[tuple[Item, Reply]]]


class Told:
    """Says the answers that it was given, and nothing good otherwise."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.said = answers

    def answers(self, items: Sequence[Item], decoding: Decoding, keep_last: int | None = None) -> Batches:
        yield [(item, Reply(self.said.get(item.id, "<script>no</script>"))) for item in items]


@pytest.fixture
def run_dir(tmp_path: Path, split_dir: Path) -> Path:
    """A run of two stages: after the first every answer is wrong, after the second every one is right."""
    samples = list(read_split(split_dir))
    (tmp_path / "run.json").write_text(json.dumps({"stages": STAGES}))
    for stage in STAGES:
        folder = tmp_path / stage / "eval"
        folder.mkdir(parents=True)
        recipe = {"about": f"what {stage} <does>", "trains": ["vision", "adapter"]}
        (tmp_path / stage / "recipe.json").write_text(json.dumps(recipe))
        steps = [
            {"step": i, "loss": 5 - i / 20, "lr": 1e-3, "samples": 8, "elapsed_s": i + 1.0, "samples_per_s": 8.0}
            for i in range(50)
        ]
        (tmp_path / stage / "log.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
        right = {s.id: to_string(s.turns[-1].content) for s in samples} if stage == "multitask" else {}
        assert len(list(evaluate(members("world"), split_dir, Told(right), "told", folder))) == len(TASKS)
    return tmp_path


class Page(HTMLParser):
    """Table rows as lists of cells, and every address in the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_the_page_is_one_file_with_scores_curves_and_pictures(run_dir: Path, split_dir: Path) -> None:
    text = write_report(run_dir, [split_dir]).read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    with_pictures = sum(bool(sample.images) for sample in read_split(split_dir))
    assert page.tags.count("figure") == with_pictures > 28  # two of each task and language; greetings have none
    assert text.count("<polyline") == 6  # two stages: the loss with its mean, the rate
    rows = {tuple(row[:2]): row[2:] for row in page.rows}
    assert rows["vqa", "vqa_accuracy"][:4] == ["0.0", "0.0", "100.0", "100.0"]
    assert rows["vqa", "vqa_accuracy"][-2:] == ["2", "2"]
    assert rows["referring", "unparsed"][:4] == ["100.0", "100.0", "0.0", "0.0"]
    assert float(rows["referring", "accuracy_iou50"][4]) >= 50, "guessing one of two boxes"


def test_what_a_model_says_is_shown_and_never_run(run_dir: Path, split_dir: Path) -> None:
    text = write_report(run_dir, [split_dir]).read_text(encoding="utf-8")
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;no" in text
    assert "what pretrain &lt;does&gt;" in text


def test_a_run_without_answers_yet_has_its_curves(run_dir: Path) -> None:
    """While the first stages train: no scores, a stage without a step, a deleted one, half a line in the log."""
    for stage in STAGES:
        shutil.rmtree(run_dir / stage / "eval")
    (run_dir / "multitask" / "log.jsonl").write_text("")
    (run_dir / "run.json").write_text(json.dumps({"stages": ["deleted", *STAGES]}))
    with (run_dir / "pretrain" / "log.jsonl").open("a") as log:
        log.write('{"step": 50, "lo')
    text = write_report(run_dir, []).read_text(encoding="utf-8")
    assert text.count("<polyline") == 3
    assert len(read_log(run_dir / "pretrain" / "log.jsonl")) == 50


def test_a_missing_run_or_lost_predictions_are_named(run_dir: Path, split_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json is missing"):
        write_report(tmp_path / "elsewhere", [])
    (run_dir / "multitask" / "eval" / "world-vqa" / "predictions.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(DataError, match=r"predictions\.jsonl"):
        write_report(run_dir, [split_dir])


def test_a_figure_draws_the_model_over_the_truth(split_dir: Path) -> None:
    sample = next(s for s in read_split(split_dir) if s.task == "referring")
    figure = figure_html(sample, {"sft": {sample.id: (Box(0, 0, 100, 50),)}})
    assert re.findall(r'class="(truth|model)"', figure) == ["truth", "model"]
    assert 'class="model" points="0 0 100 0 100 50 0 50"' in figure
    assert "IoU" in figure


def test_running_mean() -> None:
    assert smooth([4.0, 2.0, 0.0, 6.0], 2) == [4.0, 3.0, 1.0, 3.0]


def test_a_loss_that_diverged_still_has_a_curve() -> None:
    """Every coordinate is a number within the picture."""
    svg = curve_svg("a & b", [(0, 2.0), (1, float("nan")), (2, float("inf")), (3, 4.0)], "loss")
    [points] = re.findall(r'points="([^"]*)"', svg)
    coordinates = [float(c) for c in re.split("[ ,]", points)]
    assert len(coordinates) == 4
    assert all(0 <= c <= 320 for c in coordinates)
    assert "a &amp; b" in svg
