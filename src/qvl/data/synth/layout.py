"""A block of text, flat: every word drawn on a mask, and the rectangle of its ink."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qvl.data.synth.fonts import Face

SPILL = 4  # pixels around a word's box in which a font may still leave ink
Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1, y1 are the first without ink


@dataclass(frozen=True)
class Word:
    """A word and the rectangle of its ink."""

    text: str
    rect: Rect


@dataclass(frozen=True)
class Block:
    """A mask (H, W) uint8 of text, and its lines of words."""

    mask: np.ndarray
    lines: tuple[tuple[Word, ...], ...]
    vertical: bool = False


def set_block(
    words: list[str], face: Face, size: int, width: int, height: int, rng: random.Random, vertical: bool = False
) -> Block:
    """Words in lines (or columns from the right, if vertical) until the space is full; at most as many as fit.

    Words come without a glyph that the face lacks (see fonts.has_all); one that leaves no ink, or some beyond the
    mask, is left out.
    """
    mask = Image.new("L", (width, height))
    setter = _columns if vertical else _rows
    lines = setter(mask, words, face, size, (width, height), rng)
    return Block(np.asarray(mask), tuple(tuple(line) for line in lines if line), vertical)


def _rows(
    mask: Image.Image, words: list[str], face: Face, size: int, room: tuple[int, int], rng: random.Random
) -> list[list[Word]]:
    font = face.load(size)
    ascent, descent = font.getmetrics()
    step = round((ascent + descent) * rng.uniform(1.0, 1.5))
    space = font.getlength(" ") * rng.uniform(0.9, 1.4)
    align = rng.choice((0.0, 0.0, 0.0, 0.5, 1.0))  # left, mostly
    margin = size // 4
    remaining = list(words)
    lines: list[list[Word]] = []
    baseline = margin + ascent
    while remaining and baseline + descent + margin <= room[1]:
        line, used = _take_line(remaining, font, space, room[0] - 2 * margin)
        if not line:
            remaining.pop(0)  # one word is wider than the block
            continue
        x = margin + align * (room[0] - 2 * margin - used)
        placed: list[Word] = []
        for text, advance in line:
            if rect := _draw(mask, [((x, baseline), text)], font, "ls"):
                placed.append(Word(text, rect))
            x += advance
        lines.append(placed)
        baseline += step
    return lines


def _take_line(
    remaining: list[str], font: ImageFont.FreeTypeFont, space: float, room: float
) -> tuple[list[tuple[str, float]], float]:
    """Words with their advance that fit one line, taken from the front of `remaining`, and the width they use."""
    line: list[tuple[str, float]] = []
    used = gap = 0.0
    while remaining:
        text = remaining[0]
        length = font.getlength(text)
        if used + gap + length > room:
            break
        remaining.pop(0)
        used += gap + length  # the gap behind the last word is not part of the line
        gap = space if text.isascii() or (remaining and remaining[0].isascii()) else 0.0  # Chinese runs have no gaps
        line.append((text, length + gap))
    return line, used


def _columns(
    mask: Image.Image, words: list[str], face: Face, size: int, room: tuple[int, int], rng: random.Random
) -> list[list[Word]]:
    """Chinese from top to bottom, columns from the right: one character under the other."""
    font = face.load(size)
    pitch, step, margin = round(size * rng.uniform(1.0, 1.2)), round(size * rng.uniform(1.2, 1.6)), size // 4
    remaining = list(words)
    columns: list[list[Word]] = []
    x = room[0] - margin - size / 2
    while remaining and x - size / 2 >= margin:
        column: list[Word] = []
        y = float(margin)
        while remaining and y + pitch * len(remaining[0]) <= room[1] - margin:
            text = remaining.pop(0)
            if rect := _draw(mask, [((x, y + pitch * i), c) for i, c in enumerate(text)], font, "mt"):
                column.append(Word(text, rect))
            y += pitch * len(text)
        if not column:
            break
        columns.append(column)
        x -= step
    return columns


def _draw(
    mask: Image.Image, parts: list[tuple[tuple[float, float], str]], font: ImageFont.FreeTypeFont, anchor: str
) -> Rect | None:
    """Draw a word, given in parts with their places; the rectangle of its ink.

    None, and nothing drawn, when a part leaves no ink, or some beyond the mask, where it would be cut.
    """
    inks = [drawn for place, text in parts if (drawn := _ink(place, text, font, anchor))]
    if len(inks) < len(parts):
        return None
    rect = union([r for r, _ in inks])
    if min(rect) < 0 or rect[2] > mask.width or rect[3] > mask.height:
        return None
    for (left, top, _, _), ink in inks:
        mask.paste(255, (left, top), ink)
    return rect


def _ink(
    place: tuple[float, float], text: str, font: ImageFont.FreeTypeFont, anchor: str
) -> tuple[tuple[int, int, int, int], Image.Image] | None:
    """The rectangle of the ink alone, without a font's own margins, at whole pixels, and the ink. None without."""
    x, y = round(place[0]), round(place[1])
    x0, y0, x1, y1 = (round(v) for v in font.getbbox(text, anchor=anchor))
    cell = Image.new("L", (max(1, x1 - x0) + 2 * SPILL, max(1, y1 - y0) + 2 * SPILL))
    ImageDraw.Draw(cell).text((SPILL - x0, SPILL - y0), text, fill=255, font=font, anchor=anchor)
    ink = cell.getbbox()
    if ink is None:
        return None
    left, top = x + x0 - SPILL + ink[0], y + y0 - SPILL + ink[1]
    return (left, top, left + ink[2] - ink[0], top + ink[3] - ink[1]), cell.crop(ink)


def union(rects: Sequence[Rect]) -> Rect:
    """The smallest rectangle around all."""
    x0, y0, x1, y1 = zip(*rects, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))
