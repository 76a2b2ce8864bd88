import json
from pathlib import Path

import pytest

from qvl.evaluate.metrics import cider as cider_module
from qvl.evaluate.metrics.cider import cider, tokenise
from qvl.evaluate.metrics.grounding import accuracy_iou50, iou
from qvl.evaluate.metrics.text import edit_distance, exact_match, mean_edit_distance, vqa_accuracy
from qvl.text.markup import Box

# Scores of the reference scorer (pycocoevalcap 1.2) over captions that are tokenised already.
CORPORA = json.loads(Path("tests/data/cider.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda c: c["name"])
def test_cider_equals_the_reference_scorer(corpus: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cider_module, "tokenise", str.split)
    predictions = [image["candidate"] for image in corpus["images"]]
    references = [image["references"] for image in corpus["images"]]
    assert cider(predictions, references) == pytest.approx(corpus["cider"], abs=1e-9)


def test_cider_reads_chinese_by_character() -> None:
    assert tokenise("一个红色的圆形，Big SUN!") == [*"一个红色的圆形", "big", "sun"]


def test_cider_rewards_the_rare_words() -> None:
    """A word that every reference has tells nothing; the one that tells pictures apart does."""
    references = [["a red circle here"], ["a blue star here"], ["a green ring here"]]
    right_noun = cider(["circle", "x", "x"], references)
    common_word = cider(["here", "x", "x"], references)
    assert right_noun > common_word == 0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (Box(0, 0, 10, 10), Box(0, 0, 10, 10), 1.0),
        (Box(0, 0, 10, 10), Box(5, 0, 15, 10), 1 / 3),
        (Box(0, 0, 10, 10), Box(10, 0, 20, 10), 0.0),  # they only touch
        (Box(0, 0, 10, 10), Box(20, 20, 30, 30), 0.0),  # apart on both axes: two negatives make no area
        (Box(5, 5, 5, 5), Box(5, 5, 5, 5), 0.0),
    ],
)
def test_iou(a: Box, b: Box, expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected)
    assert iou(b, a) == iou(a, b)


def test_an_answer_without_a_box_counts_as_wrong() -> None:
    box = Box(0, 0, 10, 10)
    assert accuracy_iou50([box, None, Box(0, 0, 10, 5)], [box, box, box]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("said", "true", "same"),
    [
        ("The red circle.", "red circle", True),
        ("红色。", "红色", True),
        ("ＲＥＤ", "red", True),  # full-width letters
        ("two", "2", False),
        ("another", "other", False),  # "an" goes only as a word
        ("", "red", False),
    ],
)
def test_vqa_accuracy_normalises_both(said: str, true: str, same: bool) -> None:
    assert vqa_accuracy([said], [true]) == float(same)


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("大小", "小大", 2)]
)
def test_edit_distance(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_text_scores_are_means_over_all_pairs() -> None:
    predictions, references = ["SUN", "MO0N", ""], ["SUN", "MOON", "SKY"]
    assert exact_match(predictions, references) == pytest.approx(1 / 3)
    assert mean_edit_distance(predictions, references) == pytest.approx((0 + 1 / 4 + 1) / 3)
