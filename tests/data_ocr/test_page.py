"""What both readers share: languages, clean text, lines from atoms, screens of a long page."""

from itertools import pairwise

import pytest

from qvl.data.language import language_of
from qvl.data.ocr.html import screens
from qvl.data.ocr.lines import merge
from qvl.data.ocr.page import Atom, clean


def atom(text: str, x: float, y: float, width: float = 40, space: bool = True) -> Atom:
    box = (x, y, x + width, y + 20)
    return Atom(text, box, box, 0, space)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("an apple", "en"),
        ("42", "en"),
        ("红苹果", "zh"),
        ("GPU 很快", "zh"),
        ("the word 茶 means tea in Chinese", "en"),
    ],
)
def test_language_by_characters(text: str, language: str) -> None:
    assert language_of(text) == language


def test_clean_takes_out_what_is_not_seen() -> None:
    assert clean("of\ufb01ce\u00ad\u200b") == "office"


def test_lines_end_at_columns_and_baselines() -> None:
    atoms = [
        atom("two", 0, 0),
        atom("words", 46, 0),
        atom("far", 120, 0),
        atom("cell", 170, 0, space=False),
        atom("below", 0, 30),
    ]
    assert [line.text for line in merge(atoms)] == ["two words", "far", "cell", "below"]


def test_screens_are_cut_between_lines() -> None:
    lines = [atom("x", 0, y) for y in range(0, 970, 30)]
    cuts = screens(lines, 1000, 200)
    assert cuts[0][0] == 0
    assert cuts[-1][1] == 1000
    assert all(bottom - top <= 200 for top, bottom in cuts)
    assert all(one[1] == two[0] for one, two in pairwise(cuts))
    assert all(not line.box[1] < bottom < line.box[3] for line in lines for _, bottom in cuts)
