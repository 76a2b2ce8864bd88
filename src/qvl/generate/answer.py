"""An answer: its text, the boxes in it with their phrases and pixels, and the picture that they are about."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image as PILImage

from qvl import images
from qvl.text.markup import Box, Content, Quad, Ref, Text, box_to_pixels, parse_markup, plain_text, quad_to_pixels
from qvl.text.render import RoleTurn

_NAMED_PICTURE = re.compile(r"(?:\bpicture |图 ?)(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class FoundBox:
    """A box or quad of an answer. grid: its corners' x, y, ... in [0, 1000), as the model says them; pixels: the same
    in the picture, the dialogue's picture number `picture` (from 0). phrase: "" where none stands before it."""

    phrase: str
    grid: tuple[int, ...]
    pixels: tuple[float, ...]
    picture: int


@dataclass(frozen=True)
class Answer:
    """text: as the model said it, markup tags included. finish: "stop", or "length" where max_new_tokens cut it."""

    text: str
    finish: str
    prompt_tokens: int
    answer_tokens: int
    boxes: tuple[FoundBox, ...]
    picture: PILImage.Image | None  # that the boxes are about: the one that the question names, else the newest

    @property
    def content(self) -> Content:
        """The text's segments."""
        return parse_markup(self.text)

    @property
    def plain(self) -> str:
        """What it says, without boxes and tags."""
        return plain_text(self.content)

    @cached_property
    def drawn(self) -> PILImage.Image | None:
        """A copy of the picture with the boxes on it; None without boxes or a picture."""
        return images.draw_boxes(self.picture, self.content) if self.picture and self.boxes else None


def found_boxes(content: Content, sizes: Sequence[tuple[int, int]], meant: int) -> tuple[FoundBox, ...]:
    """sizes: (width, height) of the dialogue's pictures; meant: the one that the boxes are about."""
    if not sizes:
        return ()
    found: list[FoundBox] = []
    phrase = ""
    for segment in content:
        if isinstance(segment, Ref):
            phrase = segment.text
        elif isinstance(segment, Text) and segment.text.strip():
            phrase = ""
        elif isinstance(segment, Box):
            pixels = box_to_pixels(segment, *sizes[meant])
            found.append(FoundBox(phrase, segment.as_tuple, pixels, meant))
        elif isinstance(segment, Quad):
            corners = tuple(c for point in quad_to_pixels(segment, *sizes[meant]) for c in point)
            found.append(FoundBox(phrase, segment.as_tuple, corners, meant))
    return tuple(found)


def picture_meant(question: Content, count: int) -> int:
    """Which of `count` pictures a question is about, from 0: the one it names ("picture 2", "图2"), else the newest."""
    for segment in question:
        if isinstance(segment, Text) and (match := _NAMED_PICTURE.search(segment.text)):
            number = int(match[1])
            return number - 1 if 1 <= number <= count else count - 1
    return count - 1


def make_answer(
    text: str,
    finish: str,
    tokens: tuple[int, int],
    turns: Sequence[RoleTurn],
    pictures: Sequence[PILImage.Image],
) -> Answer:
    """tokens: of prompt and answer. turns: of the dialogue, the last the question."""
    meant = picture_meant(turns[-1][1], len(pictures))
    boxes = found_boxes(parse_markup(text), [picture.size for picture in pictures], meant)
    return Answer(text, finish, *tokens, boxes, pictures[meant] if pictures else None)
