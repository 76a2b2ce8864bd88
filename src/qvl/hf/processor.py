"""Pictures and text -> what the model reads, as a processor of transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from qvl import images
from qvl.checkpoint.hub import find_model
from qvl.checkpoint.layout import load_config
from qvl.errors import UsageError
from qvl.generate.messages import read_messages
from qvl.hf.tokenizer import QWenTokenizer
from qvl.images import ImageSource
from qvl.text.render import DIALOGUE, render_prompt
from qvl.text.special_tokens import IMG_END, IMG_START

PLACE = IMG_START + IMG_END  # where a picture goes in a text


class QWenVLProcessor(ProcessorMixin):
    """`apply_chat_template(messages)` for dialogues, `processor(text, images)` for what base models continue."""

    attributes: list[str] = ["tokenizer"]
    tokenizer_class = "QWenTokenizer"

    def __init__(self, tokenizer: QWenTokenizer, image_size: int = 448, num_queries: int = 256) -> None:
        self.image_size, self.num_queries = image_size, num_queries
        super().__init__(tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **_: Any) -> "QWenVLProcessor":  # type: ignore[override]
        """The tokenizer and the sizes of a checkpoint folder."""
        folder = find_model(pretrained_model_name_or_path)
        vision = load_config(folder).vision
        return cls(QWenTokenizer.from_pretrained(folder), vision.image_size, vision.num_queries)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> list[str]:  # type: ignore[override]
        """The tokenizer's files; the sizes are in the model's config.json."""
        return list(self.tokenizer.save_pretrained(save_directory))

    def __call__(self, text: str | Sequence[str], images: Any = None, **_: Any) -> BatchFeature:
        """A text or several, in which `<img></img>` stands where the next picture goes -> input_ids and attention_mask
        (B, T), padded on the left, pixel_values (N, 3, S, S) in that order. UsageError where the numbers differ."""
        texts = [text] if isinstance(text, str) else list(text)
        pictures = _flat(images)
        places = sum(one.count(PLACE) for one in texts)
        if places != len(pictures):
            raise UsageError(f"the text has {places} {PLACE} for {len(pictures)} pictures: one each")
        return self._batch([self._with_places(one) for one in texts], pictures)

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Sequence[Any], *, tokenize: bool = True, **_: Any
    ) -> Any:
        """A dialogue or several, pictures in transformers' form or OpenAI's -> as `__call__`, ready for the answer.
        tokenize = False: the prompts as text, without pictures. Errors as of qvl.generate.messages."""
        several = not isinstance(conversation[0], Mapping)
        prompts, pictures = [], []
        for messages in conversation if several else [conversation]:
            dialogue = read_messages([_in_openai_form(message) for message in messages])
            rendered = render_prompt(dialogue.turns, DIALOGUE, self.tokenizer.qvl, self.num_queries)
            prompts.append(rendered.input_ids)
            pictures += [dialogue.pictures[i] for i in rendered.image_indices]
        if not tokenize:
            texts = [self.tokenizer.decode(self._without_padding(prompt)) for prompt in prompts]
            return texts if several else texts[0]
        return self._batch(prompts, pictures)

    def decode(self, *args: Any, **values: Any) -> Any:
        return self.tokenizer.decode(*args, **values)

    def batch_decode(self, *args: Any, **values: Any) -> Any:
        return self.tokenizer.batch_decode(*args, **values)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def _with_places(self, text: str) -> list[int]:
        tokenizer = self.tokenizer.qvl
        special = tokenizer.special
        span = [special.img_start, *[special.img_pad] * self.num_queries, special.img_end]
        first, *others = text.split(PLACE)
        return [
            *tokenizer.encode_published(first),
            *(i for one in others for i in [*span, *tokenizer.encode_published(one)]),
        ]

    def _without_padding(self, ids: list[int]) -> list[int]:
        return [i for i in ids if i != self.tokenizer.qvl.special.img_pad]

    def _batch(self, prompts: list[list[int]], pictures: Sequence[ImageSource]) -> BatchFeature:
        longest = max(map(len, prompts))
        padding = self.tokenizer.pad_token_id
        values = {
            "input_ids": torch.tensor([[padding] * (longest - len(ids)) + ids for ids in prompts]),
            "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
        }
        if pictures:
            values["pixel_values"] = torch.stack([images.preprocess(picture, self.image_size) for picture in pictures])
        return BatchFeature(values)


def _flat(pictures: Any) -> list[ImageSource]:
    """None, one, a list, or a list for each text."""
    if pictures is None:
        return []
    if not isinstance(pictures, list | tuple):
        return [pictures]
    return [one for several in pictures for one in (several if isinstance(several, list | tuple) else [several])]


def _in_openai_form(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """{"type": "image", "image" | "path" | "url": ...} is transformers' way to say it."""
    content = message.get("content")
    if isinstance(content, str) or not isinstance(content, Sequence):
        return message
    parts = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") == "image":
            source = next((part[key] for key in ("image", "path", "url") if key in part), None)
            part = {"type": "image_url", "image_url": source}
        parts.append(part)
    return {**message, "content": parts}
