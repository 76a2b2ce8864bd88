"""A page that no sequence holds, cut along white space into parts that do.

A part is a rectangle of the page's own pixels with whole lines in it: text keeps its size, and every line is in
exactly one part. Cuts run between rows where they can, between columns where they must, and always where the tokens
fall most evenly to the parts that are still needed, so that these are few and none is a sliver.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qvl.data.ocr.page import Line, Page, Rect, shifted
from qvl.text.markup import GRID, Quad, Ref
from qvl.text.prompts import ocr_prefix
from qvl.text.render import render
from qvl.text.tokenizer import Tokenizer

ROWS, COLUMNS = 1, 0  # the axis along which parts follow each other
FULL = 0.95  # of a sequence: what a cut between whole lines can hope to fill
WIDEST_QUAD = Quad(*[GRID - 1] * 8)  # no quad has more tokens: each digit is one


@dataclass(frozen=True)
class SequenceLimit:
    """How long a sample may be: in tokens of this vocabulary, with so many places for its image."""

    tokenizer: Tokenizer
    num_image_tokens: int
    max_length: int

    def tokens(self, lines: Sequence[Line]) -> int:
        """Of a sample with these lines, or a few more: where on a picture they stand is not known yet."""
        answer = tuple(segment for line in lines for segment in (Ref(line.text), WIDEST_QUAD))
        turns = [("user", ocr_prefix()), ("assistant", answer)]
        rendered = render(turns, "ocr", self.tokenizer, self.num_image_tokens)
        return len(rendered.input_ids) if rendered else 0


def parts(page: Page, limit: SequenceLimit) -> tuple[list[Page], list[Line]]:
    """(parts of the page that fit, in order, each with its place; the lines that no part can hold).

    A page that fits is its own only part.
    """
    frame = limit.tokens(())
    costs = {id(line): limit.tokens((line,)) - frame for line in page.lines}
    room = limit.max_length - frame
    if sum(costs.values()) <= room:
        return [page], []
    kept: list[Page] = []
    lost: list[Line] = []
    todo: list[tuple[Rect, list[Line]]] = [((0.0, 0.0, *page.image.size), list(page.lines))]
    while todo:
        box, lines = todo.pop()
        if sum(costs[id(line)] for line in lines) <= room:
            kept.append(_part(page, box, lines))
        elif cut := _best_cut(lines, costs, room):
            axis, place = cut
            first, second = _halves(box, axis, place)
            sides = [line.ink[axis] < place for line in lines]
            todo.append((second, [line for line, before in zip(lines, sides, strict=True) if not before]))
            todo.append((first, [line for line, before in zip(lines, sides, strict=True) if before]))
        else:
            lost += lines
    return kept, lost


def _best_cut(lines: Sequence[Line], costs: dict[int, int], room: int) -> tuple[int, int] | None:
    """(axis, pixel) of the cut through no line's ink that leaves both sides as full as they can be."""
    total = sum(costs[id(line)] for line in lines)
    needed = max(math.ceil(total / (FULL * room)), 2)
    wanted = total * (needed // 2) / needed
    for axis in (ROWS, COLUMNS):
        best: tuple[float, int] | None = None
        before, end = 0, 0.0
        for line in sorted(lines, key=lambda line: line.ink[axis]):
            start = line.ink[axis]
            if before and start >= end:
                best = min(filter(None, (best, (abs(before - wanted), int((start + end) / 2)))))
            before += costs[id(line)]
            end = max(end, line.ink[axis + 2])
        if best:
            return axis, best[1]
    return None


def _halves(box: Rect, axis: int, place: int) -> tuple[Rect, Rect]:
    first, second = list(box), list(box)
    first[axis + 2] = second[axis] = float(place)
    return (first[0], first[1], first[2], first[3]), (second[0], second[1], second[2], second[3])


def _part(page: Page, box: Rect, lines: Sequence[Line]) -> Page:
    x0, y0, x1, y1 = map(int, box)
    moved = tuple(replace(line, atoms=tuple(shifted(a, x0, y0) for a in line.atoms)) for line in lines)
    return replace(page, image=page.image.crop((x0, y0, x1, y1)), lines=moved, place=(x0, y0, x1, y1))
