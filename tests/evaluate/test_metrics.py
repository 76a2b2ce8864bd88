import pytest

from qvl.evaluate.metrics.cider import cider, tokenise
from qvl.evaluate.metrics.grounding import accuracy_iou50, iou
from qvl.evaluate.metrics.text import edit_distance, exact_match, mean_edit_distance, vqa_accuracy
from qvl.text.markup import Box


def test_cider_reads_chinese_by_character() -> None:
    assert tokenise("一个红色的圆形，Big SUN!") == [*"一个红色的圆形", "big", "sun"]


def test_cider_rewards_the_rare_words() -> None:
    """A word that every reference has tells nothing; the one that tells pictures apart does."""
    references = [["a red circle here".split()], ["a blue star here".split()], ["a green ring here".split()]]
    right_noun = cider([["circle"], ["x"], ["x"]], references)
    common_word = cider([["here"], ["x"], ["x"]], references)
    assert sum(right_noun) > sum(common_word) == 0


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
