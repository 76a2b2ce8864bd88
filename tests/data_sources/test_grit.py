"""The selection against all subsets, on nestings made to mislead it; rows that don't fit."""

from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl.data.sources.grit import Phrase, nesting_depth, parse_phrases, select_phrases, selection_counts
from qvl.errors import DataError

CORNERS = (0.1, 0.1, 0.5, 0.5)


def phrase(start: int, end: int, boxes: int = 1) -> Phrase:
    return Phrase(start, end, tuple((0.1 * i, 0.1, 0.1 * i + 0.05, 0.5) for i in range(boxes)))


def overlap(a: Phrase, b: Phrase) -> bool:
    return a.start < b.end and b.start < a.end


def worth(chosen: Sequence[Phrase]) -> tuple[int, int]:
    return sum(len(p.boxes) for p in chosen), sum(p.end - p.start for p in chosen)


def best_of_all_subsets(phrases: Sequence[Phrase]) -> tuple[int, int]:
    subsets = chain.from_iterable(combinations(phrases, n) for n in range(len(phrases) + 1))
    return max(worth(s) for s in subsets if not any(overlap(a, b) for a, b in combinations(s, 2)))


@pytest.mark.parametrize(
    ("phrases", "kept"),
    [
        ([phrase(0, 66), phrase(19, 66), phrase(0, 13), phrase(19, 32)], [(0, 13), (19, 66)]),  # the README's example
        ([phrase(0, 90, 2), phrase(0, 10), phrase(20, 30), phrase(40, 50)], [(0, 10), (20, 30), (40, 50)]),
        ([phrase(0, 90, 4), phrase(0, 10), phrase(20, 30), phrase(40, 50)], [(0, 90)]),
        ([phrase(0, 20), phrase(5, 15), phrase(7, 9)], [(0, 20)]),  # equally many boxes: the fullest phrase
        ([phrase(0, 12, 2), phrase(10, 22, 3), phrase(20, 30, 2)], [(0, 12), (20, 30)]),  # the richest is a trap
        ([phrase(0, 5), phrase(5, 9)], [(0, 5), (5, 9)]),  # touching is not overlapping
        ([], []),
    ],
)
def test_nestings(phrases: list[Phrase], kept: list[tuple[int, int]]) -> None:
    assert [(p.start, p.end) for p in select_phrases(phrases)] == kept


SPANS = st.tuples(st.integers(0, 14), st.integers(1, 8)).map(lambda s: (s[0], s[0] + s[1]))
PHRASES = st.dictionaries(SPANS, st.integers(1, 4), max_size=9).map(
    lambda spans: [phrase(start, end, boxes) for (start, end), boxes in spans.items()]
)


@settings(max_examples=200)
@given(PHRASES)
def test_no_other_set_has_more_boxes(phrases: list[Phrase]) -> None:
    chosen = select_phrases(phrases)
    assert not any(overlap(a, b) for a, b in combinations(chosen, 2))
    assert worth(chosen) == best_of_all_subsets(phrases)


def test_a_span_has_its_boxes_once_whichever_list_names_them() -> None:
    row: dict[str, Any] = {
        "caption": "a wire hanger with a paper cover",
        "noun_chunks": [[0.0, 13.0, 0.5, 0.1, 0.9, 0.9, 0.8], [0, 13, 0.1, 0.1, 0.4, 0.9, 0.7]],
        "ref_exps": [[0, 13, 0.5, 0.1, 0.9, 0.9, 0.8], [0, 32, 0.5, 0.1, 0.9, 1.004, 0.8]],
    }
    assert parse_phrases(row) == [
        Phrase(0, 13, ((0.1, 0.1, 0.4, 0.9), (0.5, 0.1, 0.9, 0.9))),
        Phrase(0, 32, ((0.5, 0.1, 0.9, 1.0),)),
    ]


@given(PHRASES)
def test_the_depth_is_that_of_the_character_with_most_phrases(phrases: list[Phrase]) -> None:
    assert nesting_depth(phrases) == max(
        (sum(p.start <= place < p.end for p in phrases) for place in range(30)), default=0
    )


def test_statistics_before_and_after_the_selection() -> None:
    found = [phrase(0, 66), phrase(19, 66, 2), phrase(0, 13), phrase(19, 32, 6)]
    assert selection_counts(found, select_phrases(found)) == {
        "captions": 1,
        "captions with phrases nested 3 deep": 1,
        "phrases found": 4,
        "boxes found": 10,
        "phrases kept": 2,
        "boxes kept": 7,
        "kept phrases with boxes: 1": 1,
        "kept phrases with boxes: 4 or more": 1,
    }


@pytest.mark.parametrize(
    "entry",
    [
        [0, 99, *CORNERS],
        [3, 3, *CORNERS],
        [0.5, 3, *CORNERS],
        [0, 3, 0.5, 0.1, 0.2, 0.9],
        [0, 3, 10, 10, 90, 90],
        [0, 3],
        "x",
    ],
)
def test_entries_that_do_not_fit_are_named(entry: Any) -> None:
    with pytest.raises(DataError, match="ref_exps entry"):
        parse_phrases({"caption": "a cat", "ref_exps": [entry]})
