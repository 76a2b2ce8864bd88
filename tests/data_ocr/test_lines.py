"""Atoms to lines to an order: nothing is lost or doubled, whatever stands where."""

import random
import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl.data.ocr.lines import join_rows, merge, without_leaders
from qvl.data.ocr.order import reading_order
from qvl.data.ocr.page import Atom, Line

SIZE = 20.0


def placed(text: str, x: float, y: float, angle: int = 0, width: float = SIZE) -> Atom:
    box = (x, y, x + width, y + SIZE)
    return Atom(text, box, box, angle, False)


def column(text: str, x: float, y: float = 0.0) -> list[Atom]:
    return [placed(c, x, y + SIZE * n) for n, c in enumerate(text)]


def row(text: str, x: float, y: float) -> list[Atom]:
    return [placed(c, x + SIZE * n, y) for n, c in enumerate(text)]


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_boxes_without_a_height_are_no_error() -> None:
    flat = [Atom(text, (x, 0.0, x + 9, 0.0), (x, 0.0, x + 9, 9.0)) for text, x in (("[", 0.0), ("]", 9.0))]
    assert texts(merge(flat)) == ["[ ]"]


def test_a_short_row_above_a_longer_one_is_no_column() -> None:
    lines = merge([*row("完", 0, 0), *row("第二段文字", 0, 1.3 * SIZE), *row("第三行", 0, 2.6 * SIZE)])
    assert texts(lines) == ["完", "第二段文字", "第三行"]
    assert not any(line.vertical for line in lines)


def test_latin_lies_on_its_side_within_a_column() -> None:
    atoms = [*column("买", 0), placed("GPU", 0, SIZE, 90), placed("2", 0, 2 * SIZE, 90), *column("很快", 0, 3 * SIZE)]
    [line] = merge(atoms)
    assert (line.text, line.vertical, line.direction) == ("买GPU2很快", True, 90)
    assert line.corners[0] == (0.0, 0.0)


def test_columns_that_start_with_latin_are_columns() -> None:
    [line] = merge([placed("GPU", 0, 0, 90), *column("很快", 0, SIZE)])
    assert (line.vertical, line.direction) == (True, 90)


def test_compressed_punctuation_stays_in_its_line() -> None:
    """Chinese marks may be set half a character closer than their boxes."""
    atoms = [placed("）", 0, 0), placed("：", SIZE / 2, 0), placed("好”", 1.5 * SIZE, 0), placed("和", 2 * SIZE, 0)]
    assert texts(merge(atoms)) == ["）：好”和"]
    apart = [Line((atom,)) for atom in atoms]
    assert texts(join_rows([apart[3], *apart[:3]])) == ["）：好”和"]


def test_leader_dots_are_no_text() -> None:
    dots = [placed(".", 100 + 10 * n, 0) for n in range(20)]
    atoms = [placed("Preface", 0, 0, width=80), *dots, placed("7", 320, 0), placed("and...", 0, 40)]
    assert texts(merge(without_leaders(atoms))) == ["Preface", "7", "and..."]
    assert without_leaders([placed("..........", 0, 0)]) == []


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_pieces_of_a_row_join_where_a_space_would_fit(angle: int) -> None:
    """In each direction: (x, y) of upright text, turned."""
    spots = {0: lambda v: (v, 0.0), 90: lambda v: (0.0, v), 180: lambda v: (-v, 0.0), 270: lambda v: (0.0, -v)}
    pieces = [("one", 0.0), ("two", 26.0), ("far", 90.0)]
    lines = [Line((placed(text, *spots[angle](v), angle),)) for text, v in pieces]
    assert texts(join_rows([lines[1], lines[2], lines[0]])) == ["one two", "far"]


def test_joining_many_pieces_takes_no_memory_of_their_square() -> None:
    pieces = [Line((placed("word", 200.0 * (n % 50), 30.0 * (n // 50)),)) for n in range(3000)]
    tracemalloc.start()
    try:
        assert join_rows(pieces) == pieces
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


atoms = st.builds(
    placed,
    st.sampled_from(["word", "a", "字", "，", "12"]),
    st.integers(0, 300).map(float),
    st.integers(0, 300).map(float),
    st.sampled_from([0, 0, 0, 90, 180, 270]),
    st.sampled_from([1.0, SIZE, 100.0]),
)


@settings(max_examples=200)
@given(st.lists(atoms, max_size=30))
def test_every_atom_is_in_one_line_and_every_line_is_read_once(given_atoms: list[Atom]) -> None:
    lines = join_rows(merge(given_atoms))
    read = reading_order(lines)
    places = Counter((a.text, a.box, a.angle) for line in read for a in line.atoms)
    assert places == Counter((a.text, a.box, a.angle) for a in given_atoms)


def test_vertical_columns_in_any_order_are_read_from_the_right() -> None:
    words = ["屋顶上坐着鸽子", "十六只灰色的鸟", "天黑以前飞走了"]
    lines = [line for n, text in enumerate(words) for line in merge(column(text, 200.0 - 40 * n))]
    random.Random(1).shuffle(lines)
    assert texts(reading_order(lines)) == words
