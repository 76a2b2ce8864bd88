"""A model behind an OpenAI-compatible server -> answers. Questions go as chat messages, pictures as data in them."""

import base64
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from qvl.errors import DataError, MissingDependencyError, QvlError, UsageError
from qvl.evaluate.benchmarks import Decoding
from qvl.evaluate.items import Item
from qvl.evaluate.predictions import Reply
from qvl.evaluate.rows import Picture
from qvl.text.markup import Content, Image, to_string

RETRIES, TIMEOUT_S = 5, 600
_SIGNATURES = {b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff"}
Message = dict[str, Any]


@dataclass
class Server:
    """Where the server is (https://HOST/v1), which of its models answers, and how many questions it gets at once."""

    url: str
    model: str
    key: str = "none"
    concurrency: int = 8
    _client: Any = field(default=None, repr=False)

    def say(self, messages: Sequence[Message], max_tokens: int, **settings: Any) -> str:
        """One reply, temperature 0. UsageError where the server refuses, DataError where it can't be reached."""
        try:
            openai = import_module("openai")
        except ImportError as error:
            raise MissingDependencyError("--server needs the openai client: pip install 'qvl[llm]'") from error
        if self._client is None:
            self._client = openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=RETRIES, timeout=TIMEOUT_S)
        try:
            answer = self._client.chat.completions.create(
                model=self.model, messages=messages, temperature=0, max_tokens=max_tokens, **settings
            )
        except openai.APIConnectionError as error:
            raise DataError(f"{self.url}: no answer ({error}); give the same command again to go on") from error
        except openai.APIStatusError as error:
            raise UsageError(f"{self.url}: refused the request ({error.status_code}: {error.message})") from error
        return (answer.choices[0].message.content if answer.choices else None) or ""

    def answers(
        self, items: Sequence[Item], decoding: Decoding, keep_last: int | None = None
    ) -> Iterator[list[tuple[Item, Reply]]]:
        """Every item with its answer, one by one as they come. The error of the first that fails, when those that were
        asked already have been given."""
        failed: QvlError | None = None
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = {pool.submit(self._answer, item, decoding): item for item in items}
            for future in as_completed(asked):
                if future.cancelled():
                    continue
                if isinstance(error := future.exception(), QvlError):
                    failed = failed or error
                    for other in asked:
                        other.cancel()
                    continue
                yield [(asked[future], future.result())]
        if failed:
            raise failed

    def _answer(self, item: Item, decoding: Decoding) -> Reply:
        asked = item.turns[:-1] if item.turns[-1][0] == "assistant" else item.turns
        messages = [message(role, content, item.pictures) for role, content in asked]
        return Reply(self.say(messages, decoding.max_new_tokens))


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
