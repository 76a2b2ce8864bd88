"""Messages in the form of OpenAI's chat API -> turns and pictures.

Text stays text, whatever tags it spells; only what an assistant is said to have answered is read as markup, so that its
boxes are boxes again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image as PILImage

from qvl import images
from qvl.errors import ImageError, UsageError
from qvl.text.markup import Content, Image, Segment, Text, parse_markup
from qvl.text.render import RoleTurn

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
Message = Mapping[str, Any]
Loader = Callable[[Any], PILImage.Image]  # of what stands in image_url.url


@dataclass(frozen=True)
class Dialogue:
    """Turns whose Image(i) are pictures[i]."""

    turns: tuple[RoleTurn, ...]
    pictures: tuple[PILImage.Image, ...]


def load_source(source: images.ImageSource) -> PILImage.Image:
    """For messages from one's own program: a path, bytes, a PIL image, a data URI."""
    if isinstance(source, str) and source.startswith("data:"):
        return images.load(images.data_uri_bytes(source))
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(f"{source[:80]}: addresses are not fetched here; download the picture and give its path")
    return images.load(source)


def read_messages(messages: Sequence[Message], load: Loader = load_source) -> Dialogue:
    """UsageError names the message that does not fit; what `load` raises for a picture passes through."""
    if isinstance(messages, str | bytes | Mapping) or not messages:
        raise UsageError('messages: expected a list such as [{"role": "user", "content": "..."}]')
    turns: list[RoleTurn] = []
    pictures: list[PILImage.Image] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise UsageError(f"{where}.role: expected one of {', '.join(ROLES)}")
        role = ROLES[message["role"]]
        turns.append((role, _content(message.get("content"), role, where, pictures, load)))
    if turns[-1][0] != "user":
        raise UsageError(f"messages[{len(turns) - 1}].role: the last message must be the user's")
    if sum(role == "system" for role, _ in turns) > 1:
        raise UsageError("messages: more than one system message")
    return Dialogue(tuple(turns), tuple(pictures))


def _content(value: Any, role: str, where: str, pictures: list[PILImage.Image], load: Loader) -> Content:
    parts = [{"type": "text", "text": value}] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or isinstance(parts, bytes):
        raise UsageError(f"{where}.content: expected a text or a list of parts")
    segments: list[Segment] = []
    for number, part in enumerate(parts):
        place = f"{where}.content[{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            segments += parse_markup(part["text"]) if role == "assistant" else [Text(part["text"])]
        elif kind == "image_url" and role == "user":
            segments.append(Image(len(pictures)))
            pictures.append(_picture(part.get("image_url"), place, load))
        elif kind == "image_url":
            raise UsageError(f"{place}: only a user's message can hold pictures")
        else:
            raise UsageError(f"{place}: expected a part of type text or image_url with its value")
    return tuple(segments)


def _picture(value: Any, place: str, load: Loader) -> PILImage.Image:
    source = value.get("url") if isinstance(value, Mapping) else value
    if source is None:
        raise UsageError(f"{place}.image_url: no url")
    return load(source)
