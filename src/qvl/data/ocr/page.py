"""A rendered page and the text on it: atoms (words, or single Chinese characters) merged into lines.

Source: paper appendix A.2, OCR data: each page's text with its boxes beside its image. Both readers
(pdf.py, html.py) give atoms in document order; what follows is shared. Boxes are made to hug the ink of the
rendered image, so that a label holds whatever the source's idea of a glyph's box is, and an atom without ink
(white on white, covered, clipped away) is no label at all.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 are outside
Corners = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]
Pixels = npt.NDArray[np.uint8]

INK_CONTRAST = 40  # a pixel is ink when one of its channels differs by more from the background
EDGE = 1.0  # pixels by which a box may stick out of the image before its atom counts as cut
WORD_GAP, GLUED_GAP = 1.0, 0.3  # of the line's height, at most, between atoms with and without a space


@dataclass(frozen=True)
class Atom:
    """What is never split: a word, or one Chinese character.

    box is the layout box (the font's height), ink the tight one; angle is the reading direction, clockwise
    from left to right: 0, 90 (downwards), 180 or 270 (upwards).
    """

    text: str
    box: Rect
    ink: Rect
    angle: int = 0
    space_before: bool = True


@dataclass(frozen=True)
class Line:
    """Atoms that follow each other on one baseline."""

    atoms: tuple[Atom, ...]

    @property
    def text(self) -> str:
        """The characters, with the spaces that the source has between them."""
        first, *rest = self.atoms
        return first.text + "".join((" " if a.space_before else "") + a.text for a in rest)

    @property
    def ink(self) -> Rect:
        """The smallest upright box around the ink."""
        return union(a.ink for a in self.atoms)

    @property
    def corners(self) -> Corners:
        """Clockwise from the top left of the text as it reads."""
        return corners_of(self.ink, self.atoms[0].angle)


@dataclass(frozen=True)
class Page:
    """One rendered page. problems are reasons the reader itself found against it."""

    image: Image.Image
    lines: tuple[Line, ...]
    source: str
    number: int
    problems: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All lines, one per row."""
        return "\n".join(line.text for line in self.lines)


def union(boxes: Iterable[Rect]) -> Rect:
    """The smallest box around all of them."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def corners_of(box: Rect, angle: int) -> Corners:
    """The box's corners, clockwise, starting at the one where text in this direction has its top left."""
    x0, y0, x1, y1 = box
    ring = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    start = angle // 90
    return (ring[start], ring[(start + 1) % 4], ring[(start + 2) % 4], ring[(start + 3) % 4])


def clean(text: str) -> str:
    """Text without invisible characters (controls, soft hyphens, zero-width) and with Latin ligatures apart."""
    visible = (c for c in text if unicodedata.category(c) not in ("Cc", "Cf"))
    return "".join(unicodedata.normalize("NFKC", c) if 0xFB00 <= ord(c) <= 0xFB06 else c for c in visible)


def finish(image: Image.Image, atoms: Iterable[Atom], source: str, number: int, problems: Sequence[str]) -> Page:
    """Atoms in document order -> Page: invisible, cut and doubled atoms out, boxes tight, lines merged."""
    pixels = np.asarray(image)
    tight: list[Atom] = []
    seen: set[tuple[str, Rect]] = set()
    for atom in atoms:
        ink = ink_box(pixels, atom.ink) if _inside(atom.box, image.size) else None
        if ink is None or (atom.text, ink) in seen:  # drawn twice: a poor man's bold
            continue
        seen.add((atom.text, ink))
        tight.append(replace(atom, ink=ink))
    return Page(image, tuple(merge(tight)), source, number, tuple(problems))


def _inside(box: Rect, size: tuple[int, int]) -> bool:
    return box[0] >= -EDGE and box[1] >= -EDGE and box[2] <= size[0] + EDGE and box[3] <= size[1] + EDGE


def background(pixels: Pixels) -> npt.NDArray[np.int16]:
    """The most frequent colour."""
    flat = pixels.reshape(-1, 3).astype(np.uint32)
    codes, counts = np.unique((flat[:, 0] << 16) | (flat[:, 1] << 8) | flat[:, 2], return_counts=True)
    code = int(codes[counts.argmax()])
    return np.array([code >> 16, (code >> 8) & 255, code & 255], dtype=np.int16)


def ink_mask(pixels: Pixels, ground: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    """Where the pixels differ from the background enough to be seen."""
    mask: npt.NDArray[np.bool_] = (np.abs(pixels.astype(np.int16) - ground) > INK_CONTRAST).any(axis=-1)
    return mask


def ink_box(pixels: Pixels, box: Rect) -> Rect | None:
    """The box shrunk to the ink in it; None when there is none. The surroundings tell the background."""
    height, width = pixels.shape[:2]
    x0, y0 = max(int(np.floor(box[0])), 0), max(int(np.floor(box[1])), 0)
    x1, y1 = min(int(np.ceil(box[2])), width), min(int(np.ceil(box[3])), height)
    if x0 >= x1 or y0 >= y1:
        return None
    ground = background(pixels[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3])
    mask = ink_mask(pixels[y0:y1, x0:x1], ground)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return (float(x0 + columns[0]), float(y0 + rows[0]), float(x0 + columns[-1] + 1), float(y0 + rows[-1] + 1))


def merge(atoms: Iterable[Atom]) -> list[Line]:
    """Atoms in document order -> lines: neighbours that share a direction and a baseline and lie close."""
    lines: list[list[Atom]] = []
    for atom in atoms:
        if lines and _continues(lines[-1][-1], atom):
            lines[-1].append(atom)
        else:
            lines.append([atom])
    return [Line(tuple(line)) for line in lines]


def _continues(last: Atom, atom: Atom) -> bool:
    if last.angle != atom.angle:
        return False
    _, top, right, bottom = _upright(last.box, last.angle)
    x0, y0, _, y1 = _upright(atom.box, atom.angle)
    height = max(bottom - top, y1 - y0)
    overlap = min(bottom, y1) - max(top, y0)
    gap = (x0 - right) / height
    widest = WORD_GAP if atom.space_before else GLUED_GAP  # wider ones part columns and the cells of a table
    return overlap >= 0.4 * min(bottom - top, y1 - y0) and -0.3 <= gap <= widest


def _upright(box: Rect, angle: int) -> Rect:
    """The box in coordinates in which its text reads from left to right."""
    x0, y0, x1, y1 = box
    return {0: box, 90: (y0, -x1, y1, -x0), 180: (-x1, -y1, -x0, -y0), 270: (-y1, x0, -y0, x1)}[angle]
