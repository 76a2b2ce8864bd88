"""The order in which a person reads the lines of a page, from where they stand.

A PDF may draw its text in any order. Where the order of the source already goes down the page, or along its rows, it
is kept: it knows cells and captions. Elsewhere the page is cut along white space, recursively (an XY-cut): into rows
from top to bottom; a run of rows that share a gutter is a block. A block is read column by column where its columns
are running text (lines that are long for their height and mostly fill their column), or where the source draws them
one after the other; else row by row, as a table is. Rows far apart never share a block. Vertical Chinese is the same
page turned: its columns, from right to left, are the rows.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from qvl.data.ocr.page import Line, Rect, upright

TOUCH = 0.3  # share of its height by which a line may reach into its neighbours' rows
GUTTER = 0.8  # of the line height: the narrowest white between columns
APART, UNUSUAL = 1.5, 2.0  # of the line height, of the median: white between rows that ends a block
FILLED, LONG = 0.85, 10.0  # running text: median line over column width, over line height
BACK = 6.0  # line heights by which the next cell of a row may begin higher than the last line of its neighbour
FEW, MANY = 3, 8  # lines below which a column's shape, or an order among rows, says nothing
WIDE = 0.75  # share of the width that a block's rows may cover before a gutter shows

Item = tuple[Rect, int]  # a line's box, turned so that it reads from left to right, and its place in the source


def reading_order(lines: Sequence[Line]) -> list[Line]:
    """The lines as a person reads them. What can't be told apart by white space goes by height, then by side."""
    if not lines:
        return []
    letters = Counter[int]()
    for line in lines:
        letters[line.direction] += len(line.text)
    [(direction, _)] = letters.most_common(1)
    items = [(upright(line.ink, direction), place) for place, line in enumerate(lines)]
    return [lines[place] for _, place in _ordered(items)]


def _ordered(items: list[Item]) -> list[Item]:
    if drawn := _as_drawn(items):
        return drawn
    columns = _columns(items)
    rows = _rows(items)
    if len(columns) > 1 and len(rows) == 1:
        return [item for column in columns for item in _ordered(column)]
    if len(rows) == 1:
        return sorted(items, key=lambda item: (item[0][1] + item[0][3], item[0][0]))
    height = _line_height(items)
    left, right = _extent(items)
    gaps = [_top(below) - _bottom(above) for above, below in pairwise(rows)]
    apart = max(APART * height, UNUSUAL * float(np.median(gaps)))
    out: list[Item] = []
    place = 0
    while place < len(rows):
        end = place + 1
        while end < len(rows) and gaps[end - 1] <= apart:
            end += 1
        count, parts = _block(rows[place:end], WIDE * (right - left)) or _drawn_rows(rows[place:])
        out += [item for part in parts for item in _ordered(part)]
        place += count
    return out


def _as_drawn(items: Sequence[Item]) -> list[Item]:
    """The items as the source has them, if that is an order to read in; else none."""
    drawn = sorted(items, key=lambda item: item[1])
    height = _line_height(items)
    return drawn if all(_leads(a[0], b[0], height) for a, b in pairwise(drawn)) else []


def _leads(a: Rect, b: Rect, height: float) -> bool:
    """Whether reading may go from a to b: further down, or to the right."""
    if b[1] + b[3] > a[1] + a[3] + height and b[3] > a[3]:
        return True
    return b[0] >= a[2] - height and b[1] >= a[1] - BACK * height


def _drawn_rows(rows: Sequence[list[Item]]) -> tuple[int, list[list[Item]]]:
    """(how many rows from the first on can be read as drawn, but one at least; those as one part)."""
    for end in range(len(rows), 1, -1):
        items = [item for row in rows[:end] for item in row]
        if len(items) < MANY:
            break
        if drawn := _as_drawn(items):
            return end, [drawn]
    return 1, [rows[0]]


def _block(rows: Sequence[list[Item]], wide: float) -> tuple[int, list[list[Item]]] | None:
    """(how many of the rows from the first on are columns; those in the order to be read), None for no columns."""
    block: list[Item] = []
    found: tuple[int, list[list[Item]]] = (0, [])
    for count, row in enumerate(rows, start=1):
        block += row
        columns = _columns(block)
        if len(columns) > 1 and count > 1:
            found = (count, columns)
        elif len(columns) == 1 and _extent(block)[1] - _extent(block)[0] > wide:
            break
    columns = _to_be_read(found[1])
    return (found[0], columns) if columns else None


def _to_be_read(columns: list[list[Item]]) -> list[list[Item]]:
    """The columns in their order, none when they are a table's."""
    if sum(len(column) >= FEW for column in columns) < 2:
        return []
    if all(map(_is_running_text, columns)):
        return columns
    owner = {place: number for number, column in enumerate(columns) for _, place in column}
    drawn = [owner[place] for place in sorted(owner)]
    visits = [drawn[0], *(b for a, b in pairwise(drawn) if a != b)]
    return [columns[number] for number in visits] if len(visits) == len(columns) else []


def _is_running_text(column: list[Item]) -> bool:
    if len(column) < FEW:
        return False
    left, right = _extent(column)
    median = float(np.median([box[2] - box[0] for box, _ in column]))
    return median >= FILLED * (right - left) and median >= LONG * _line_height(column)


def _rows(items: Sequence[Item]) -> list[list[Item]]:
    """Groups with white between them, from top to bottom."""
    return _parted(items, 1, -TOUCH)


def _columns(items: Sequence[Item]) -> list[list[Item]]:
    """Groups with a gutter between them, from left to right."""
    return _parted(items, 0, GUTTER)


def _parted(items: Sequence[Item], axis: int, white: float) -> list[list[Item]]:
    height = _line_height(items)
    groups: list[list[Item]] = []
    end = 0.0
    for item in sorted(items, key=lambda item: (item[0][axis], item[1])):
        if groups and item[0][axis] - end < white * height:
            groups[-1].append(item)
            end = max(end, item[0][axis + 2])
        else:
            groups.append([item])
            end = item[0][axis + 2]
    return groups


def _line_height(items: Sequence[Item]) -> float:
    return float(np.median([box[3] - box[1] for box, _ in items]))


def _extent(items: Sequence[Item]) -> tuple[float, float]:
    return min(box[0] for box, _ in items), max(box[2] for box, _ in items)


def _top(items: Sequence[Item]) -> float:
    return min(box[1] for box, _ in items)


def _bottom(items: Sequence[Item]) -> float:
    return max(box[3] for box, _ in items)
