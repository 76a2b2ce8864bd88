"""A page cut into small pictures of a word or two, for models with small images.

Every character in a crop is labelled: a crop is a window of the page when nothing but its own words shows in
it, and else the words alone, in their places, on the page's background colour.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from qvl.data.ocr.ink import Pixels, background, ink_mask
from qvl.data.ocr.page import Corners, Line, Page, Rect
from qvl.data.ocr.samples import ocr_sample
from qvl.data.sample import Sample

ZOOM = 2  # pages to be cut are rendered this much larger, so that crops shrink and never grow
MARGIN = 4  # page pixels between a word and the crop's edge
PLAIN = 0.5  # a background must be at least this share of the window

Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CropSettings:
    """side: width and height of a crop in pixels; min_text_height: of its line, from top to bottom of the ink."""

    side: int = 112
    max_words: int = 2
    max_chars: int = 12
    min_text_height: int = 16


def crops(page: Page, generator: random.Random, settings: CropSettings) -> tuple[list[Sample], int]:
    """(the page's crops in order, how many words are in none). A word is in one crop at most."""
    pixels = np.asarray(page.image)
    inks = np.array([atom.ink for line in page.lines for atom in line.atoms])
    out: list[Sample] = []
    place = lost = 0
    for line in page.lines:
        largest = int(line.height * settings.side / settings.min_text_height)
        lost += len(line.atoms)
        for begin, end in _runs(line, largest, generator, settings):
            run = Line(line.atoms[begin:end], line.vertical)
            others = np.delete(inks, slice(place + begin, place + end), axis=0)
            if not _overlapped(run.ink, others):
                made = _cut(pixels, run, largest, page, generator, settings)
                lost -= len(made) * len(run.atoms)
                out += made
        place += len(line.atoms)
    return out, lost


def _runs(line: Line, largest: int, generator: random.Random, settings: CropSettings) -> Iterator[tuple[int, int]]:
    """(begin, end) of pieces of the line: a few atoms with a letter or digit that fit the largest window."""
    begin = 0
    while begin < len(line.atoms):
        words, budget = generator.randint(1, settings.max_words), generator.randint(1, settings.max_chars)
        end = begin + 1
        while end < len(line.atoms) and _within(line, begin, end + 1, largest, words, budget):
            end += 1
        text = Line(line.atoms[begin:end]).text
        if _within(line, begin, end, largest, 1 + text.count(" "), settings.max_chars) and any(map(str.isalnum, text)):
            yield begin, end
        begin = end


def _within(line: Line, begin: int, end: int, largest: int, words: int, budget: int) -> bool:
    run = Line(line.atoms[begin:end])
    return run.text.count(" ") < words and len(run.text) <= budget and _smallest(run.ink) <= largest


def _smallest(box: Rect) -> int:
    """Side of the smallest window around the box."""
    return int(np.ceil(max(box[2] - box[0], box[3] - box[1]))) + 2 * MARGIN


def _overlapped(box: Rect, others: Boxes) -> bool:
    """Whether another atom's ink reaches into the box."""
    x0, y0, x1, y1 = box
    return bool(
        ((others[:, 0] < x1) & (others[:, 2] > x0) & (others[:, 1] < y1) & (others[:, 3] > y0)).any(),
    )


def _cut(
    pixels: Pixels, run: Line, largest: int, page: Page, generator: random.Random, settings: CropSettings
) -> list[Sample]:
    """One sample around the run, in a random place of a random window; none where the background is not plain."""
    smallest = max(_smallest(run.ink), settings.side)
    if smallest > largest:
        return []
    window = generator.randint(smallest, largest)
    x = generator.randint(int(run.ink[2]) + MARGIN - window, int(run.ink[0]) - MARGIN)
    y = generator.randint(int(run.ink[3]) + MARGIN - window, int(run.ink[1]) - MARGIN)
    canvas = _window(pixels, run.ink, x, y, window)
    if canvas is None:
        return []
    picture = Image.fromarray(canvas).resize((settings.side, settings.side), Image.Resampling.BICUBIC)
    scale = settings.side / window
    a, b, c, d = [((px - x) * scale, (py - y) * scale) for px, py in run.corners]
    corners: Corners = (a, b, c, d)
    return [ocr_sample(picture, [(run.text, corners)], page, crop=[x, y, window])]


def _window(pixels: Pixels, box: Rect, x: int, y: int, side: int) -> Pixels | None:
    """The square at (x, y), which may reach over the page's edge, with no ink outside the box."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    seen = pixels[y0:y1, x0:x1]
    ground = background(seen)
    canvas: Pixels = np.empty((side, side, 3), dtype=np.uint8)
    canvas[:] = ground.astype(np.uint8)
    canvas[y0 - y : y1 - y, x0 - x : x1 - x] = seen
    ink = ink_mask(canvas, ground)
    if ink.mean() > 1 - PLAIN:
        return None
    left, top, right, bottom = map(int, box)
    unlabelled = np.ones((side, side), dtype=bool)
    unlabelled[top - y : bottom - y, left - x : right - x] = False
    if (ink & unlabelled).any():
        canvas[unlabelled] = ground.astype(np.uint8)
    return canvas
