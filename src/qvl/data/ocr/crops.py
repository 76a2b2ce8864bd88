"""A page cut into small pictures around a few words each, for models with small images.

Every character in a crop is labelled: a crop is a window of the page when nothing but its own words shows in
it, and else the words alone, in their places, on the page's background colour.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from qvl.data.ocr.page import Line, Page, Pixels, Rect, background, ink_mask
from qvl.data.ocr.samples import Labelled, ocr_sample
from qvl.data.sample import Sample

MARGIN = 3  # pixels between a word and the crop's edge
PLAIN = 0.5  # a background must be at least this share of the window


@dataclass(frozen=True)
class CropSettings:
    """sides: the crop is a square of a side drawn from this range, in pixels of the page."""

    sides: tuple[int, int] = (112, 160)
    max_chars: int = 24
    max_words: int = 4
    max_lines: int = 2
    min_text_height: int = 5
    passes: int = 1


Run = Line  # neighbouring atoms of one line


def crops(page: Page, generator: random.Random, settings: CropSettings) -> list[Sample]:
    """The page's crops in order. In each pass over the page, a word is in one crop at most."""
    pixels = np.asarray(page.image)
    out: list[Sample] = []
    for _ in range(settings.passes):
        for group in _groups(page, generator, settings):
            cut = _cut(pixels, group, page, generator, settings)
            if cut is not None:
                image, lines, window = cut
                out.append(ocr_sample(image, lines, page, crop=list(window)))
    return out


def _groups(page: Page, generator: random.Random, settings: CropSettings) -> Iterator[list[Run]]:
    """Runs, some joined with the one below, within the limits on characters and size."""
    waiting = [run for line in page.lines for run in _runs(line, generator, settings)]
    while waiting:
        group = [waiting.pop(0)]
        lines = generator.randint(1, settings.max_lines)
        for run in list(waiting):
            if len(group) == lines:
                break
            if _below(group[-1].ink, run.ink) and _fits([*group, run], settings):
                group.append(run)
                waiting.remove(run)
        yield group


def _runs(line: Line, generator: random.Random, settings: CropSettings) -> Iterator[Run]:
    """The line in pieces of a few atoms; what can't be cut small enough is left out."""
    rest = list(line.atoms)
    while rest:
        words = generator.randint(1, settings.max_words)
        budget = generator.randint(max(settings.max_chars // 3, 1), settings.max_chars)
        count = 0
        while count < len(rest) and _within(rest[: count + 1], words, budget, settings):
            count += 1
        if count == 0 and _within(rest[:1], 1, settings.max_chars, settings):
            count = 1
        if count and min(_size(Line(tuple(rest[:count])).ink)) >= settings.min_text_height:
            yield Line(tuple(rest[:count]))
        rest = rest[max(count, 1) :]


def _within(atoms: Sequence, words: int, budget: int, settings: CropSettings) -> bool:
    run = Line(tuple(atoms))
    spaced = 1 + sum(atom.space_before for atom in atoms[1:])
    return spaced <= words and len(run.text) <= budget and _fits([run], settings)


def _fits(group: Sequence[Run], settings: CropSettings) -> bool:
    width, height = _size(_around(group))
    room = settings.sides[1] - 2 * MARGIN
    return sum(len(r.text) for r in group) <= settings.max_chars and width <= room and height <= room


def _below(above: Rect, box: Rect) -> bool:
    """Whether the box starts under the other one, near it and partly in its columns."""
    height = above[3] - above[1]
    return 0 <= box[1] - above[3] <= 2 * height and min(above[2], box[2]) > max(above[0], box[0])


def _size(box: Rect) -> tuple[float, float]:
    return (box[2] - box[0], box[3] - box[1])


def _around(group: Sequence[Run]) -> Rect:
    boxes = [run.ink for run in group]
    return (
        min(b[0] for b in boxes),
        min(b[1] for b in boxes),
        max(b[2] for b in boxes),
        max(b[3] for b in boxes),
    )


def _cut(
    pixels: Pixels, group: Sequence[Run], page: Page, generator: random.Random, settings: CropSettings
) -> tuple[Image.Image, list[Labelled], tuple[int, int, int]] | None:
    """(image, lines, (x, y, side)) of the crop; None where its labels could not be true."""
    around = _around(group)
    side = generator.randint(max(settings.sides[0], int(max(_size(around))) + 2 * MARGIN), settings.sides[1])
    x = generator.randint(int(around[2]) + MARGIN - side, int(around[0]) - MARGIN)
    y = generator.randint(int(around[3]) + MARGIN - side, int(around[1]) - MARGIN)
    if _overlapped(group, page):
        return None
    canvas = _window(pixels, [run.ink for run in group], x, y, side)
    if canvas is None:
        return None
    lines: list[Labelled] = []
    for run in group:
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = run.corners
        lines.append((run.text, ((ax - x, ay - y), (bx - x, by - y), (cx - x, cy - y), (dx - x, dy - y))))
    return Image.fromarray(canvas), lines, (x, y, side)


def _overlapped(group: Sequence[Run], page: Page) -> bool:
    """Whether another atom's ink reaches into the boxes of the group."""
    own = {id(atom) for run in group for atom in run.atoms}
    boxes = [run.ink for run in group]
    return any(
        atom.ink[0] < b[2] and b[0] < atom.ink[2] and atom.ink[1] < b[3] and b[1] < atom.ink[3]
        for line in page.lines
        for atom in line.atoms
        if id(atom) not in own
        for b in boxes
    )


def _window(pixels: Pixels, boxes: Sequence[Rect], x: int, y: int, side: int) -> Pixels | None:
    """The square at (x, y), which may reach over the page's edge, with no ink outside the boxes."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    seen = pixels[y0:y1, x0:x1]
    ground = background(seen)
    if ink_mask(seen, ground).mean() > 1 - PLAIN:
        return None
    canvas: Pixels = np.empty((side, side, 3), dtype=np.uint8)
    canvas[:] = ground.astype(np.uint8)
    canvas[y0 - y : y1 - y, x0 - x : x1 - x] = seen
    labelled = np.zeros((side, side), dtype=bool)
    for left, top, right, bottom in boxes:
        labelled[int(top) - y : int(bottom) - y, int(left) - x : int(right) - x] = True
    if (ink_mask(canvas, ground) & ~labelled).any():
        canvas[~labelled] = ground.astype(np.uint8)
    return canvas
