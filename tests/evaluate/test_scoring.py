import pytest

from qvl.errors import DataError
from qvl.evaluate.scoring import MAIN_METRIC, TASKS, best_constant, score, summary_lines
from qvl.text.markup import Box, Content, Quad, Ref, Text

QUAD = Quad(10, 10, 90, 10, 90, 40, 10, 40)


def said(text: str) -> Content:
    return (Text(text),)


def read(text: str, quad: Quad = QUAD) -> Content:
    return (Ref(text), quad)


def test_a_perfect_answer_scores_full_marks_on_every_main_metric() -> None:
    boxes: list[Content] = [(Box(0, 0, 9, 9),), (Box(1, 1, 8, 8),)]
    for task in TASKS:
        texts = [read("SUN"), read("OLD")] if task == "ocr" else [said("a red circle here"), said("two blue stars now")]
        references = boxes if MAIN_METRIC[task] == "accuracy_iou50" else texts
        expected = pytest.approx(1000 if MAIN_METRIC[task] == "cider" else 1)
        assert score(task, references, references)[MAIN_METRIC[task]] == expected, task


def test_grounded_captions_are_compared_without_their_boxes() -> None:
    plain: list[Content] = [said("a red circle here"), said("blue star on sand")]
    grounded: list[Content] = [
        (Text("a "), Ref("red circle"), Box(1, 2, 3, 4), Text(" here")),
        (Ref("blue star"), Box(1, 2, 3, 4), Text(" on sand")),
    ]
    assert score("grounded_caption", grounded, plain) == score("grounded_caption", plain, plain)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ((Ref("green square"), Box(100, 100, 310, 310)), True),
        ((Ref("green square"), Box(600, 600, 900, 900)), False),
        ((Ref("green square"),), False),
        ((Ref("red square"), Box(100, 100, 310, 310)), False),
    ],
)
def test_repeating_the_question_is_no_answer_to_where(answer: Content, right: bool) -> None:
    reference: Content = (Ref("green square"), Box(100, 100, 300, 300))
    assert score("dialogue", [answer], [reference])["last_answer_accuracy"] == float(right)


def test_a_missing_box_is_wrong_and_counted() -> None:
    box = Box(0, 0, 500, 500)
    assert score("referring", [(box,), said("left")], [(box,), (box,)]) == {"accuracy_iou50": 0.5, "unparsed": 0.5}


def test_ocr_joins_words_and_scores_short_words_apart() -> None:
    references = [read("SUN"), (Ref("OLD"), QUAD, Ref("HOUSE"), QUAD), read("RAINBOW")]
    predictions = [read("SUN"), (Ref("OLD"), QUAD, Ref("HOUSE")), read("RAIN")]
    scores = score("ocr", predictions, references)
    assert scores["exact_match"] == pytest.approx(2 / 3)
    assert scores["short_word_exact_match"] == 1.0  # only SUN is one word of at most six characters


def test_the_constant_answer_is_the_most_frequent_text() -> None:
    references = [said("red"), said("red"), said("blue"), said("green")]
    assert best_constant("vqa", references) == {"vqa_accuracy": 0.5}


def test_the_constant_ocr_answer_ignores_where_the_word_stood() -> None:
    """Else every reference is unlike every other, and guessing looks worse than it is."""
    references = [read("SKY"), *(read("SUN", Quad(i, 0, 99, 0, 99, 40, i, 40)) for i in range(3))]
    assert best_constant("ocr", references)["exact_match"] == 0.75


def test_the_constant_box_overlaps_most_others() -> None:
    references: list[Content] = [(Box(0, 0, 100, 100),), (Box(5, 0, 100, 100),), (Box(700, 700, 900, 900),)]
    assert best_constant("referring", references)["accuracy_iou50"] == pytest.approx(2 / 3)


def test_a_reference_without_a_box_is_named() -> None:
    with pytest.raises(DataError, match="asks for a box"):
        score("referring", [(Box(0, 0, 1, 1),)], [said("nowhere")])


def test_summary_has_one_line_per_task_with_guessing_beside_it() -> None:
    group = {"samples": 4, "scores": {"vqa_accuracy": 0.75}, "best_constant": {"vqa_accuracy": 0.5}}
    [line] = summary_lines({"en": {"vqa": group}, "zh": {}, "all": {"vqa": group}})
    assert "vqa_accuracy" in line
    assert "en 0.750" in line
    assert "constant answer 0.500" in line
