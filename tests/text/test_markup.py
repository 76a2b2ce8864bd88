"""Segments: their string, their JSON, their pixels, and what a model's answer is read as."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl.errors import TextError
from qvl.text import markup
from qvl.text.markup import Box, Content, Image, Quad, Ref, Text, parse_markup, to_string
from qvl.text.render import join_texts

CELLS = st.integers(0, 999)
WORDS = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), min_size=1)
BOXES = st.tuples(CELLS, CELLS, CELLS, CELLS).map(
    lambda c: Box(min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
QUADS = st.tuples(*[CELLS] * 8).map(lambda c: Quad(*c))
SEGMENTS = st.one_of(WORDS.map(Text), WORDS.map(Ref), BOXES, QUADS)
CONTENTS = st.lists(SEGMENTS).map(join_texts)
FRAGMENTS = [*"<ref> </ref> <box> </box> <quad> </quad> (1,2),(3,4) (9,8),(7,6) , dog".split(), "(1, 2), ( 3,4)", " "]
SIDES = st.integers(1, 20_000)


@given(content=CONTENTS)
def test_parse_is_the_inverse_of_to_string(content: Content) -> None:
    assert parse_markup(to_string(content)) == content


@given(text=st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_any_answer_parses_and_loses_nothing_but_spaces_in_boxes(text: str) -> None:
    parsed = parse_markup(text)
    assert to_string(parsed).replace(" ", "") == text.replace(" ", "")
    assert parse_markup(to_string(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "<ref>open",
        "<box>(1,2),(3,4)",
        "<box>(1,2,3)</box>",
        "<box>(1,2),(3,1000)</box>",
        "<box>(9,8),(7,6)</box>",  # inverted
        "<box>(1.5,2),(3,4)</box>",
        "<quad>(1,2),(3,4)</quad>",
        "</box> stray",
    ],
)
def test_what_is_malformed_stays_text(text: str) -> None:
    assert parse_markup(text) == (Text(text),)
    assert parse_markup(f"{text}<box>(1,2),(3,4)</box>")[-1] == Box(1, 2, 3, 4)


def test_a_phrase_with_two_boxes() -> None:
    answer = "see <ref>the bees</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>."
    boxes = (Box(1, 2, 3, 4), Box(5, 6, 7, 8))
    assert parse_markup(answer) == (Text("see "), Ref("the bees"), *boxes, Text("."))


@given(content=st.lists(st.one_of(SEGMENTS, st.integers(0, 9).map(Image))).map(tuple))
def test_json_round_trip(content: Content) -> None:
    assert markup.from_json(markup.to_json(content)) == content


@pytest.mark.parametrize(
    "item", [{"box": [1, 2, 3]}, {"quad": [1] * 7}, {"text": 5}, {"image": "a.png"}, {"video": 1}, {}, "text"]
)
def test_json_of_no_segment_is_named(item: dict[str, object]) -> None:
    with pytest.raises(TextError, match="none of text, ref, box"):
        markup.from_json([item])


@given(width=SIDES, height=SIDES, corners=st.tuples(*[st.floats(0, 1)] * 4))
def test_pixels_of_a_box_come_back_within_half_a_cell(
    width: int, height: int, corners: tuple[float, float, float, float]
) -> None:
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    pixels = (x1 * width, y1 * height, x2 * width, y2 * height)
    back = markup.box_to_pixels(markup.box_from_pixels(pixels, width, height), width, height)
    for before, after, side in zip(pixels, back, (width, height) * 2, strict=True):
        assert abs(before - after) <= side / 2000 * (1 + 1e-9)


@given(quad=QUADS, width=SIDES, height=SIDES)
def test_cells_of_a_quad_survive_pixels(quad: Quad, width: int, height: int) -> None:
    assert markup.quad_from_pixels(markup.quad_to_pixels(quad, width, height), width, height) == quad


def test_what_lies_outside_the_picture_is_clipped() -> None:
    assert markup.box_from_pixels((-5, -5, 105, 105), 100, 100) == Box(0, 0, 999, 999)


@pytest.mark.parametrize("corners", [(0, 0, 1000, 5), (-1, 0, 5, 5), (0, 0, 1.5, 5), (0, 0, True, 5), (9, 0, 8, 5)])
def test_a_box_off_the_grid_or_inverted_is_refused(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(TextError):
        Box(*corners)


def test_a_quad_has_four_corners() -> None:
    with pytest.raises(TextError, match="found 3"):
        markup.quad_from_pixels([(0, 0), (1, 0), (1, 1)], 10, 10)
