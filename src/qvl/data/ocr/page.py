"""A rendered page and the text on it: atoms (words, or single Chinese characters) merged into lines.

Source: paper appendix A.2, OCR data: each page's text with its boxes beside its image. Both readers
(pdf.py, html.py) give atoms in document order; ink.py keeps those that the picture shows, lines.py merges
them.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

from PIL import Image

from qvl.data.language import is_cjk

Rect = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; x1 and y1 are outside
Corners = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Atom:
    """What is never split: a word, or one Chinese character.

    box is the layout box (the font's height), ink the tight one; angle is the direction in which its letters
    stand side by side, clockwise from left to right: 0, 90 (downwards), 180 or 270 (upwards).
    """

    text: str
    box: Rect
    ink: Rect
    angle: int = 0
    space_before: bool = True


@dataclass(frozen=True)
class Line:
    """Atoms that follow each other on one baseline, or, if vertical, upright from top to bottom."""

    atoms: tuple[Atom, ...]
    vertical: bool = False

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
    def height(self) -> float:
        """Extent of the ink across the reading direction, in pixels: from the tallest letter to the deepest."""
        x0, y0, x1, y1 = self.ink
        return y1 - y0 if self.direction in (0, 180) else x1 - x0

    @property
    def direction(self) -> int:
        """Where the next atom lies: degrees clockwise from the right."""
        return (self._letters + 90) % 360 if self._stacked else self._letters

    @property
    def corners(self) -> Corners:
        """Clockwise from the top left of the text as its letters stand."""
        return corners_of(self.ink, self._letters)

    @property
    def _stacked(self) -> bool:
        return self.vertical and any(map(stands_upright, self.atoms))

    @property
    def _letters(self) -> int:
        """The angle of its letters; in vertical text, of those that stand."""
        return next((a.angle for a in self.atoms if self._stacked and stands_upright(a)), self.atoms[0].angle)


@dataclass(frozen=True)
class Page:
    """One rendered page, or a part of one.

    problems are reasons the reader itself found against it; unseen counts the words of the source that the picture
    does not show; stray is the share of its text's ink that is in no line; place is where a part was cut out of its
    page, None for a whole one.
    """

    image: Image.Image
    lines: tuple[Line, ...]
    source: str
    number: int
    problems: tuple[str, ...] = ()
    unseen: int = 0
    stray: float = 0.0
    place: Rect | None = None

    @property
    def text(self) -> str:
        """All lines, one per row."""
        return "\n".join(line.text for line in self.lines)


def stands_upright(atom: Atom) -> bool:
    """Whether it keeps its orientation in vertical text: Chinese does, Latin lies on its side."""
    return len(atom.text) == 1 and is_cjk(atom.text)


def union(boxes: Iterable[Rect]) -> Rect:
    """The smallest box around all of them."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def shifted(atom: Atom, x: float, y: float) -> Atom:
    """The atom in the coordinates of a picture whose origin is (x, y)."""
    boxes = [(b[0] - x, b[1] - y, b[2] - x, b[3] - y) for b in (atom.box, atom.ink)]
    return replace(atom, box=boxes[0], ink=boxes[1])


def upright(box: Rect, angle: int) -> Rect:
    """The box in coordinates in which text of this direction reads from left to right."""
    x0, y0, x1, y1 = box
    return {0: box, 90: (y0, -x1, y1, -x0), 180: (-x1, -y1, -x0, -y0), 270: (-y1, x0, -y0, x1)}[angle]


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
