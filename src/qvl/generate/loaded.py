"""A loaded checkpoint: model and tokenizer, ready to answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from qvl import images
from qvl.checkpoint.hub import find_model
from qvl.checkpoint.layout import load_config
from qvl.generate.answer import Answer, make_answer
from qvl.generate.chat import ANSWER_TOKENS, Chat, answer_content, pixels_of, stop_ids
from qvl.generate.engine import Engine
from qvl.generate.messages import Message, read_messages
from qvl.generate.prepare import prepare
from qvl.generate.request import Request
from qvl.generate.sampling import SamplingConfig
from qvl.generate.spoken import SpokenText
from qvl.images import ImageSource
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.quantize.layout import load_any
from qvl.text.markup import Content
from qvl.text.render import DIALOGUE, RoleTurn, render_prompt
from qvl.text.tokenizer import Tokenizer

EXACT_UP_TO = 10**9  # weights


@dataclass(frozen=True)
class QwenVLWithTokenizer:
    """A checkpoint folder: what `qvl.load` gives. kernels: what computes its products, in words."""

    model: QwenVL
    tokenizer: Tokenizer
    kernels: str = field(default="", compare=False)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = ANSWER_TOKENS,
        stop: Sequence[str] = (),
        sampling: SamplingConfig | None = None,
        seed: int | None = None,
    ) -> Answer:
        """The answer to a dialogue in the form of OpenAI's chat API; pictures as paths, bytes, PIL images or data URIs.

        `vl.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": "Where is the dog?"}]}])`. What several calls begin with alike is read once. Raises
        UsageError for messages that don't fit, ImageError for a picture that can't be read.
        """
        dialogue = read_messages(messages)
        rendered = render_prompt(dialogue.turns, DIALOGUE, self.tokenizer, self.model.config.vision.num_queries)
        shown = [dialogue.pictures[i] for i in rendered.image_indices]
        request = Request(
            rendered.input_ids,
            pixels_of(shown, self.model.config),
            max_new_tokens,
            stop_ids=stop_ids(self.tokenizer),
            sampling=sampling or SamplingConfig(),
            seed=seed,
        )
        spoken = SpokenText(self.tokenizer, stop)
        text, finish, count = "", "stop", 0
        for step in self._engine.stream(request):
            if step.token_id is not None:
                count += 1
                text += spoken.push(step.token_id)
            finish = step.finish or finish
            if spoken.stopped:
                finish = "stop"
                break
        text += spoken.flush()
        return make_answer(text, finish, (len(rendered.input_ids), count), dialogue.turns, dialogue.pictures)

    def conversation(self, **settings: object) -> Chat:
        """A conversation that keeps its history and streams; settings as Chat's fields."""
        return Chat(self.model, self.tokenizer, **settings)  # type: ignore[arg-type]

    def answer(self, turns: Sequence[RoleTurn], task: str, pictures: Sequence[ImageSource] = ()) -> Content:
        """One greedy answer to a task's prefix (see qvl.text.prompts) or a dialogue's turns, as markup."""
        rendered = render_prompt(turns, task, self.tokenizer, self.model.config.vision.num_queries)
        shown = pixels_of([images.load(pictures[i]) for i in rendered.image_indices], self.model.config)
        request = Request(rendered.input_ids, shown, ANSWER_TOKENS, stop_ids=stop_ids(self.tokenizer))
        return answer_content(self._engine.run([request])[0], self.tokenizer)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, max_rows=1)


def load(
    directory: str | Path,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    hub: str | None = None,
) -> QwenVLWithTokenizer:
    """Model and tokenizer of a checkpoint folder, prepared for answering (see qvl.generate.prepare); to train, take
    `qvl.checkpoint.load_model`.

    `owner/model` is looked for in the hubs' local caches, or downloaded where hub is "huggingface" or "modelscope".
    dtype: None takes float32 for a small model on the CPU, else bfloat16. CheckpointError or TextError says what is
    wrong with the folder.
    """
    directory = find_model(directory, hub)
    model = load_any(directory, dtype or usual_dtype(load_config(directory), device), device)
    return QwenVLWithTokenizer(model, Tokenizer.from_dir(directory), prepare(model))


def usual_dtype(config: QwenVLConfig, device: str) -> torch.dtype:
    """What a model answers in where nothing is said: float32 is exact, but of billions of weights twice the memory."""
    with skeleton():
        count = sum(parameter.numel() for parameter in QwenVL(config).parameters())
    return torch.float32 if device == "cpu" and count <= EXACT_UP_TO else torch.bfloat16
