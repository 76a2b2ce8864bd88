"""A model behind an OpenAI-compatible server -> answers. Questions go as chat messages, pictures as data in them."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl.data.chat_server import ChatServer, Message, ask_all
from qvl.evaluate.benchmarks import Decoding
from qvl.evaluate.items import Item
from qvl.evaluate.predictions import Reply
from qvl.evaluate.rows import Picture
from qvl.text.markup import Content, Image, to_string

_SIGNATURES = {b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff"}


@dataclass(frozen=True)
class RemoteModel:
    """What answers behind a server, greedily."""

    chat: ChatServer

    def answers(
        self, items: Sequence[Item], decoding: Decoding, keep_last: int | None = None
    ) -> Iterator[list[tuple[Item, Reply]]]:
        """Every item with its answer, one by one as they come; errors as of `ask_all`."""

        def ask(item: Item) -> Reply:
            asked = item.turns[:-1] if item.turns[-1][0] == "assistant" else item.turns
            messages = [message(role, content, item.pictures) for role, content in asked]
            return Reply(self.chat.say(messages, temperature=0, max_tokens=decoding.max_new_tokens))

        yield from ([pair] for pair in ask_all(items, ask, self.chat.server.concurrency))


def message(role: str, content: Content, pictures: Sequence[Picture]) -> Message:
    """A turn as OpenAI's chat API has it: one text, or parts of texts and pictures in their order."""
    if not any(isinstance(segment, Image) for segment in content):
        return {"role": role, "content": to_string(content)}
    parts: list[Message] = []
    for segment in content:
        if isinstance(segment, Image):
            parts.append({"type": "image_url", "image_url": {"url": data_url(pictures[segment.index])}})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += to_string((segment,))
        else:
            parts.append({"type": "text", "text": to_string((segment,))})
    return {"role": role, "content": parts}


def data_url(picture: Picture) -> str:
    """A picture's file as it is."""
    data = picture.read_bytes() if isinstance(picture, Path) else picture
    kind = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
