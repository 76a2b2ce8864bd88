"""Tables for a terminal."""

import unicodedata
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], gap: int = 3) -> list[str]:
    """A line for each row, columns as wide as their longest cell."""
    widths = [max(columns_of(row[i]) for row in rows) + gap for i in range(len(rows[0]))]
    return [padded(row, widths) for row in rows]


def padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells of so many columns; a longer one pushes the rest to the right."""
    return "".join(cell + " " * (width - columns_of(cell)) for cell, width in zip(cells, widths, strict=True)).rstrip()


def columns_of(text: str) -> int:
    """Of a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def quantity(number: float) -> str:
    """Three digits and a unit: 1.94B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
