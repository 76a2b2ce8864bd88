"""One chat request: its prompt, its answers as they come, and both forms of the response."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from PIL import Image as PILImage

from qvl.errors import TextError, UsageError
from qvl.generate.answer import Answer, make_answer
from qvl.generate.chat import pixels_of, stop_ids
from qvl.generate.messages import Dialogue, read_messages
from qvl.generate.request import Request, Step
from qvl.generate.sampling import SamplingConfig
from qvl.generate.spoken import SpokenText
from qvl.model.config import QwenVLConfig
from qvl.serve.errors import ApiError, BusyError
from qvl.serve.metrics import Metrics
from qvl.serve.pictures import load_pictures
from qvl.serve.schema import ChatRequest
from qvl.serve.settings import Settings
from qvl.text.render import DIALOGUE, render_prompt
from qvl.text.tokenizer import Tokenizer

log = logging.getLogger("qvl.serve")


class Backend(Protocol):
    """Whoever answers: one engine of this process, or replicas."""

    def steps(self, request: Request) -> AsyncGenerator[Step, None]:
        """As Worker.steps."""

    def check_alive(self) -> bool:
        """Whether requests are answered; may wait a little."""

    def state(self) -> dict[str, float]:
        """Numbers for the metrics, some of those that qvl.serve.metrics names."""


@dataclass
class _Choice:
    """One of the n answers."""

    index: int
    spoken: SpokenText
    text: str = ""
    tokens: int = 0
    finish: str | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """What one step brings for the client. finish: the choice ends with it."""

    index: int
    text: str
    logprobs: list[dict[str, Any]]
    finish: str | None


class Completion:
    """A request under way. `pieces` must be read to the end, or closed."""

    def __init__(self, asked: ChatRequest, dialogue: Dialogue, prompt: list[int], requests: list[Request]) -> None:
        self.id, self.created, self.asked = f"chatcmpl-{uuid4().hex}", int(time.time()), asked
        self.dialogue, self.prompt, self.requests = dialogue, prompt, requests
        self.choices: list[_Choice] = []

    async def pieces(self, backend: Backend, tokenizer: Tokenizer, metrics: Metrics) -> AsyncIterator[Piece]:
        """Of all choices as they come."""
        stops = [self.asked.stop] if isinstance(self.asked.stop, str) else self.asked.stop or []
        self.choices = [_Choice(index, SpokenText(tokenizer, stops)) for index in range(len(self.requests))]
        events: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
        begun = time.monotonic()
        tasks = [
            asyncio.create_task(_follow(backend.steps(request), choice, tokenizer, events))
            for request, choice in zip(self.requests, self.choices, strict=True)
        ]
        left, last = len(tasks), None
        try:
            while left:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                now = time.monotonic()
                metrics.first_token.observe(now - begun) if last is None else metrics.between_tokens.observe(now - last)
                left, last = left - (event.finish is not None), now
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            metrics.prompt_tokens.inc(len(self.prompt))
            metrics.answer_tokens.inc(sum(choice.tokens for choice in self.choices))

    def answer(self, index: int) -> Answer:
        """What a choice said, with its boxes."""
        choice = self.choices[index]
        tokens = (len(self.prompt), choice.tokens)
        return make_answer(choice.text, choice.finish or "", tokens, self.dialogue.turns, self.dialogue.pictures)

    def usage(self) -> dict[str, int]:
        """Tokens of the prompt, once, and of all answers."""
        said = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": said,
            "total_tokens": len(self.prompt) + said,
        }

    def response(self, name: str) -> dict[str, Any]:
        """The whole answer in OpenAI's form; boxes are ours."""
        choices = []
        for choice in self.choices:
            message = {"role": "assistant", "content": choice.text, "refusal": None, "boxes": self.boxes(choice.index)}
            logprobs = {"content": choice.logprobs, "refusal": None} if self.asked.logprobs else None
            choices.append(
                {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}
            )
        return {**self._head(name, "chat.completion"), "choices": choices, "usage": self.usage()}

    def chunk(self, name: str, piece: Piece | None, first: bool = False) -> dict[str, Any]:
        """One event of a stream. None: the last one, with the usage."""
        head = self._head(name, "chat.completion.chunk")
        if piece is None:
            return {**head, "choices": [], "usage": self.usage()}
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if piece.text or first:
            delta["content"] = piece.text
        if piece.finish is not None:
            delta["boxes"] = self.boxes(piece.index)
        logprobs = {"content": piece.logprobs, "refusal": None} if self.asked.logprobs else None
        choice = {"index": piece.index, "delta": delta, "logprobs": logprobs, "finish_reason": piece.finish}
        usage = {"usage": None} if self.wants_usage else {}
        return {**head, "choices": [choice], **usage}

    @property
    def wants_usage(self) -> bool:
        options = self.asked.stream_options
        return bool(options and options.include_usage)

    def boxes(self, index: int) -> list[dict[str, Any]]:
        """The boxes and quads of a choice: phrase, corners in [0, 1000) and in pixels, and which picture, from 0."""
        return [
            {
                "phrase": box.phrase,
                "grid": box.grid,
                "pixels": [round(p, 1) for p in box.pixels],
                "picture": box.picture,
            }
            for box in self.answer(index).boxes
        ]

    def _head(self, name: str, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": name}


async def prepare(
    asked: ChatRequest, settings: Settings, config: QwenVLConfig, tokenizer: Tokenizer, max_tokens: int
) -> Completion:
    """ApiError for what the server does not allow or can't read."""
    if asked.model != settings.name:
        raise ApiError(404, f"model: there is no {asked.model[:64]!r} here, but {settings.name!r}", "model_not_found")
    count = asked.n or 1
    if count > settings.max_n:
        raise ApiError(400, f"n: at most {settings.max_n}", "invalid_value", "n")
    if isinstance(asked.stop, list) and len(asked.stop) > settings.max_stops:
        raise ApiError(400, f"stop: at most {settings.max_stops} strings", "invalid_value", "stop")
    messages = [message.model_dump(exclude_none=True) for message in asked.messages]
    loaded = await load_pictures(_addresses(messages), settings)
    try:
        dialogue = await asyncio.to_thread(read_messages, messages, loaded.__getitem__)
        if settings.log_prompts:
            log.info("prompt: %s", dialogue.turns)
        requests, prompt = await asyncio.to_thread(_requests, asked, dialogue, settings, config, tokenizer, max_tokens)
    except (UsageError, TextError) as error:
        raise ApiError(400, str(error), "invalid_value", "messages") from error
    return Completion(asked, dialogue, prompt, requests)


def _addresses(messages: list[dict[str, Any]]) -> list[str]:
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def _requests(
    asked: ChatRequest,
    dialogue: Dialogue,
    settings: Settings,
    config: QwenVLConfig,
    tokenizer: Tokenizer,
    max_tokens: int,
) -> tuple[list[Request], list[int]]:
    rendered = render_prompt(dialogue.turns, DIALOGUE, tokenizer, config.vision.num_queries)
    prompt, room = rendered.input_ids, max_tokens - len(rendered.input_ids)
    wanted = asked.max_completion_tokens or asked.max_tokens
    if room < (wanted or 1):
        message = f"a prompt of {len(prompt)} tokens and an answer of {wanted or 1} do not fit {max_tokens} tokens"
        raise ApiError(400, message, "context_length_exceeded", "messages")
    sampling = SamplingConfig(
        float(asked.temperature or 0), asked.top_k or 0, float(asked.top_p or 1), float(asked.repetition_penalty or 1)
    )
    shown: list[PILImage.Image] = [dialogue.pictures[i] for i in rendered.image_indices]
    pixels = pixels_of(shown, config)
    requests = [
        Request(
            prompt,
            pixels,
            wanted or min(room, settings.max_new_tokens),
            stop_ids=stop_ids(tokenizer),
            sampling=sampling,
            seed=None if asked.seed is None else (asked.seed + number) % 2**63,
            top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        )
        for number in range(asked.n or 1)
    ]
    return requests, prompt


async def _follow(
    steps: AsyncGenerator[Step, None],
    choice: _Choice,
    tokenizer: Tokenizer,
    events: "asyncio.Queue[Piece | BaseException]",
) -> None:
    """One choice's steps -> pieces, until it ends, a stop string comes, or the task is cancelled."""
    try:
        async with contextlib.aclosing(steps):
            async for step in steps:
                piece = _piece(step, choice, tokenizer)
                events.put_nowait(piece)
                if piece.finish is not None:
                    return
    except (UsageError, TextError) as error:
        events.put_nowait(ApiError(400, str(error), "invalid_value", "messages"))
    except BusyError as error:
        events.put_nowait(ApiError(429, str(error), "server_busy"))
    except Exception as error:  # noqa: BLE001 - told to the one who waits
        events.put_nowait(error)


def _piece(step: Step, choice: _Choice, tokenizer: Tokenizer) -> Piece:
    text, logprobs = "", []
    if step.token_id is not None:
        choice.tokens += 1
        text = choice.spoken.push(step.token_id)
        if step.logprob is not None:
            top = [_token(tokenizer, one, value) for one, value in step.top]
            logprobs = [{**_token(tokenizer, step.token_id, step.logprob), "top_logprobs": top}]
    finish = "stop" if choice.spoken.stopped else step.finish
    if finish is not None:
        text += choice.spoken.flush()
    choice.text, choice.finish = choice.text + text, finish
    choice.logprobs += logprobs
    return Piece(choice.index, text, logprobs, finish)


def _token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    known = tokenizer.token_bytes(token_id) if token_id < tokenizer.vocab_size else b""
    return {"token": known.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(known)}
