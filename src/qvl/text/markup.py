"""What a turn is made of: text, phrases, boxes, quads and images; and pixels <-> [0, 1000).

Source: paper section 3.2 and appendix B; the published tokenizer's draw and list functions. Coordinates
are integers in [0, 1000), a fraction of the image's width or height times 1000.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from qvl.errors import TextError
from qvl.text.special_tokens import BOX_END, BOX_START, MARKUP_TOKENS, QUAD_END, QUAD_START, REF_END, REF_START

GRID = 1000  # coordinates are integers in [0, GRID)
_TAG = re.compile("|".join(MARKUP_TOKENS))


@dataclass(frozen=True)
class Text:
    """Plain text: whatever it spells, it never becomes a special token."""

    text: str


@dataclass(frozen=True)
class Ref:
    """A phrase that the following boxes or quads belong to."""

    text: str


@dataclass(frozen=True)
class Box:
    """Two corners, top left and bottom right."""

    x1: int
    y1: int
    x2: int
    y2: int

    def __post_init__(self) -> None:
        _check_grid(self.as_tuple, "box")
        if self.x1 > self.x2 or self.y1 > self.y2:
            raise TextError(f"box {self.as_tuple} is inverted: give (x1, y1) above and left of (x2, y2)")

    @property
    def as_tuple(self) -> tuple[int, int, int, int]:
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def inner(self) -> str:
        """The plain characters between `<box>` and `</box>`."""
        return f"({self.x1},{self.y1}),({self.x2},{self.y2})"


@dataclass(frozen=True)
class Quad:
    """Four corners, clockwise from the top left of the text."""

    x1: int
    y1: int
    x2: int
    y2: int
    x3: int
    y3: int
    x4: int
    y4: int

    def __post_init__(self) -> None:
        _check_grid(self.as_tuple, "quad")

    @property
    def as_tuple(self) -> tuple[int, int, int, int, int, int, int, int]:
        return (self.x1, self.y1, self.x2, self.y2, self.x3, self.y3, self.x4, self.y4)

    @property
    def inner(self) -> str:
        """The plain characters between `<quad>` and `</quad>`."""
        points = self.as_tuple
        return ",".join(f"({points[i]},{points[i + 1]})" for i in range(0, 8, 2))


@dataclass(frozen=True)
class Image:
    """The place of the sample's images[index]."""

    index: int


Segment = Text | Ref | Box | Quad | Image
Content = tuple[Segment, ...]


def _check_grid(values: Iterable[int], what: str) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < GRID:
            raise TextError(f"{what} {tuple(values)}: coordinate {value!r} is not an integer in [0, {GRID})")


def to_grid(value: float, side: float) -> int:
    """Pixel coordinate -> [0, 1000): floor(1000 * value / side), clipped to the last cell."""
    return min(max(int(value * GRID / side), 0), GRID - 1)


def from_grid(value: int, side: float) -> float:
    """[0, 1000) -> pixels: the cell's centre, so that a round trip errs by at most side/2000."""
    return (value + 0.5) * side / GRID


def box_from_pixels(box: tuple[float, float, float, float], width: float, height: float) -> Box:
    """(x1, y1, x2, y2) in pixels of a width x height image -> Box."""
    x1, y1, x2, y2 = box
    return Box(to_grid(x1, width), to_grid(y1, height), to_grid(x2, width), to_grid(y2, height))


def box_to_pixels(box: Box, width: float, height: float) -> tuple[float, float, float, float]:
    """Box -> (x1, y1, x2, y2) in pixels of a width x height image."""
    return (
        from_grid(box.x1, width),
        from_grid(box.y1, height),
        from_grid(box.x2, width),
        from_grid(box.y2, height),
    )


def quad_from_pixels(points: Iterable[tuple[float, float]], width: float, height: float) -> Quad:
    """Four (x, y) pixel corners, clockwise from the top left -> Quad."""
    flat = [c for x, y in points for c in (to_grid(x, width), to_grid(y, height))]
    if len(flat) != 8:
        raise TextError(f"a quad has four corners, found {len(flat) // 2}")
    return Quad(*flat)


def quad_to_pixels(quad: Quad, width: float, height: float) -> list[tuple[float, float]]:
    """Quad -> its four corners in pixels."""
    c = quad.as_tuple
    return [(from_grid(c[i], width), from_grid(c[i + 1], height)) for i in range(0, 8, 2)]


def to_string(content: Content) -> str:
    """Content as the published string format, images left out (they have no text form of their own)."""
    parts = []
    for segment in content:
        match segment:
            case Text(text):
                parts.append(text)
            case Ref(text):
                parts.append(f"{REF_START}{text}{REF_END}")
            case Box():
                parts.append(f"{BOX_START}{segment.inner}{BOX_END}")
            case Quad():
                parts.append(f"{QUAD_START}{segment.inner}{QUAD_END}")
            case Image():
                continue
    return "".join(parts)


def plain_text(content: Content) -> str:
    """The texts and phrases of content, nothing of its boxes, quads and images."""
    return "".join(segment.text for segment in content if isinstance(segment, Text | Ref))


_NUMBER = r"\s*(\d{1,3})\s*"
_POINT = rf"\({_NUMBER},{_NUMBER}\)"
_MARKUP = re.compile(
    rf"{REF_START}(?P<ref>.*?){REF_END}"
    rf"|{BOX_START}(?P<box>{','.join([_POINT] * 2)}){BOX_END}"
    rf"|{QUAD_START}(?P<quad>{','.join([_POINT] * 4)}){QUAD_END}",
    re.DOTALL,
)


def stray_tag(text: str) -> str | None:
    """A tag that stands among words, as `parse_markup` leaves those that don't close: it would be learnt as words."""
    found = _TAG.search(text)
    return found[0] if found else None


def parse_markup(text: str) -> Content:
    """A model's answer -> segments: the inverse of to_string. What is unclosed or malformed stays Text."""
    segments: list[Segment] = []
    place = 0
    for match in _MARKUP.finditer(text):
        segment = _parsed(match)
        if segment is None:
            continue
        if match.start() > place:
            segments.append(Text(text[place : match.start()]))
        segments.append(segment)
        place = match.end()
    if place < len(text):
        segments.append(Text(text[place:]))
    return tuple(segments)


def _parsed(match: re.Match[str]) -> Segment | None:
    """The segment of a match; None for an inverted box."""
    if match["ref"] is not None:
        return Ref(match["ref"])
    numbers = [int(n) for n in re.findall(r"\d+", match.group())]
    if match["quad"] is not None:
        return Quad(*numbers)
    x1, y1, x2, y2 = numbers
    return Box(x1, y1, x2, y2) if x1 <= x2 and y1 <= y2 else None


def to_json(content: Content) -> list[dict[str, Any]]:
    """Content -> plain JSON values, one object per segment."""
    out: list[dict[str, Any]] = []
    for segment in content:
        match segment:
            case Text(text):
                out.append({"text": text})
            case Ref(text):
                out.append({"ref": text})
            case Box():
                out.append({"box": list(segment.as_tuple)})
            case Quad():
                out.append({"quad": list(segment.as_tuple)})
            case Image(index):
                out.append({"image": index})
    return out


def from_json(items: list[dict[str, Any]]) -> Content:
    """The inverse of to_json. TextError for an unknown kind or a box that does not fit."""
    segments: list[Segment] = []
    for item in items:
        match item:
            case {"text": str(text)}:
                segments.append(Text(text))
            case {"ref": str(text)}:
                segments.append(Ref(text))
            case {"box": [x1, y1, x2, y2]}:
                segments.append(Box(x1, y1, x2, y2))
            case {"quad": [*corners]} if len(corners) == 8:
                segments.append(Quad(*corners))
            case {"image": int(index)}:
                segments.append(Image(index))
            case _:
                raise TextError(
                    f"segment {item!r} is none of text, ref, box (4 numbers), quad (8), image: see docs/architecture.md"
                )
    return tuple(segments)
