"""A model in this process -> answers: greedy generation and likelihoods of options, in batches of like length."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qvl import images
from qvl.errors import DataError, ImageError
from qvl.evaluate.benchmarks import Decoding
from qvl.evaluate.items import PLAIN, Item
from qvl.evaluate.metrics.choice import LETTERS, likeliest, option_loss
from qvl.evaluate.predictions import Reply
from qvl.generate.chat import stop_ids
from qvl.generate.engine import Engine
from qvl.generate.request import Request
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.render import render_prompt
from qvl.text.special_tokens import BOX_START
from qvl.text.tokenizer import Tokenizer

FIRST_BYTES = 1 << 20
AHEAD = 2  # batches whose pictures are read while the model answers


def fingerprint(folder: Path, adapter: Path | None = None) -> str:
    """A name for a checkpoint's weights: the folder's, and a hash of the sizes and first megabytes of its files."""
    digest = hashlib.sha256()
    places = [folder] if adapter is None else [folder, adapter]
    for path in sorted(path for place in places for path in place.glob("*")):
        if path.suffix in (".json", ".safetensors"):
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(FIRST_BYTES))
    return " with ".join(place.resolve().name for place in places) + f" ({digest.hexdigest()[:12]})"


@dataclass(frozen=True)
class LocalModel:
    """precision "float32": the same answers whatever the batch; "bf16": faster, and a tie may go another way.

    workers: threads that read pictures. keep_last: see Benchmark.
    """

    model: QwenVL
    tokenizer: Tokenizer
    batch_size: int = 16
    precision: str = "float32"
    workers: int = 2

    def answers(
        self, items: Sequence[Item], decoding: Decoding, keep_last: int | None = None
    ) -> Iterator[list[tuple[Item, Reply]]]:
        """Every item with its answer, a batch at a time, in the order of prompts' lengths.

        DataError for a picture that can't be read, naming the question.
        """
        lengths = [len(self._prompt(item, keep_last)) for item in items]  # hundreds of thousands need little room
        order = sorted(range(len(items)), key=lambda i: (items[i].task, len(items[i].options), lengths[i], i))
        batches = self._batches(order, lengths, items, decoding.max_new_tokens)
        room = max(lengths, default=0) + decoding.max_new_tokens
        with self._kernels():
            engine = Engine(self.model, max_rows=self.batch_size, max_tokens=room)
        with ThreadPoolExecutor(self.workers) as pool:
            read = [pool.map(self._pixels, [items[i] for i in batch]) for batch in batches[:AHEAD]]
            for place, batch in enumerate(batches):
                if place + AHEAD < len(batches):
                    read.append(pool.map(self._pixels, [items[i] for i in batches[place + AHEAD]]))
                shown = list(read[place])
                read[place] = iter(())
                asked = [items[i] for i in batch]
                prompts = [self._prompt(item, keep_last) for item in asked]
                yield list(zip(asked, self._answer(engine, asked, prompts, shown, decoding), strict=True))

    def _batches(self, order: list[int], lengths: list[int], items: Sequence[Item], new_tokens: int) -> list[list[int]]:
        """Prompts of one kind together. Beyond the trained length positions are scaled by the length of the whole
        batch, padding and all: there a prompt is asked alone."""
        room = self.model.config.language.seq_length - new_tokens
        batches: list[list[int]] = []
        for i in order:
            last = batches[-1] if batches else []
            alike = last and (items[last[0]].task, items[last[0]].options) == (items[i].task, items[i].options)
            if alike and len(last) < self.batch_size and lengths[i] <= room:
                last.append(i)
            else:
                batches.append([i])
        return batches

    def _prompt(self, item: Item, keep_last: int | None) -> list[int]:
        queries = self.model.config.vision.num_queries
        ids = render_prompt(item.turns, item.task, self.tokenizer, queries, numbered=item.numbered).input_ids
        if item.opened:
            ids = [*ids, self.tokenizer.special.id_of(BOX_START)]
        return ids[-keep_last:] if keep_last is not None and len(ids) > keep_last + 1 else ids

    def _pixels(self, item: Item) -> list[Tensor]:
        try:
            return [images.preprocess(picture, self.model.config.vision.image_size) for picture in item.pictures]
        except ImageError as error:
            raise DataError(f"question {item.id}: {error}") from error

    @torch.inference_mode()
    def _answer(
        self,
        engine: Engine,
        items: Sequence[Item],
        prompts: list[list[int]],
        pictures: list[list[Tensor]],
        decoding: Decoding,
    ) -> list[Reply]:
        with self._kernels():
            if items[0].options:
                shown = [picture for own in pictures for picture in own]
                pixels = torch.stack(shown).to(self.model.vision.conv1.weight) if shown else None
                return self._choose(items[0].options, prompts, pixels)
            # What is asked plainly ends as the published scripts have it; whatever else a dialogue may say, it ends.
            stops = {self.tokenizer.special.endoftext} if items[0].task == PLAIN else stop_ids(self.tokenizer)
            requests = [
                Request(prompt, own, decoding.max_new_tokens, decoding.min_new_tokens, stops)
                for prompt, own in zip(prompts, pictures, strict=True)
            ]
            return [Reply(self._text(ids)) for ids in engine.run(requests)]

    def _kernels(self) -> AbstractContextManager[None]:
        return fast_kernels(str(self.model.vision.conv1.weight.device), self.precision)

    def _text(self, ids: Sequence[int]) -> str:
        """What was said, tags and all; rows of the embedding that stand for no token say nothing."""
        known = (self.tokenizer.token_bytes(i) for i in ids if i < self.tokenizer.vocab_size)
        return b"".join(known).decode("utf-8", "replace")

    def _choose(self, options: Sequence[str], prompts: list[list[int]], pixels: Tensor | None) -> list[Reply]:
        """The option with the lowest mean loss of its tokens."""
        continuations = [self.tokenizer.encode(option) for option in options]
        if any(len(ids) > 1 for ids in continuations):
            columns = [self._losses(prompts, ids, pixels) for ids in continuations]
        else:
            columns = self._next_token_losses(prompts, [ids[0] for ids in continuations], pixels)
        rows = list(zip(*columns, strict=True))
        return [Reply(LETTERS[likeliest(row)]) for row in rows]

    def _logits(self, prompts: list[list[int]], pixels: Tensor | None, last: int) -> Tensor:
        """Of the last places of each prompt, (B, last, V)."""
        input_ids, mask = pad_left(prompts, pad_id=0)
        device = self.model.language.embedding.weight.device
        attention_mask = None if bool(mask.all()) else mask.to(device)
        hidden = self.model.hidden_states(input_ids.to(device), pixels, attention_mask)
        return self.model.language.head(hidden[:, -last:])

    def _next_token_losses(self, prompts: list[list[int]], ids: list[int], pixels: Tensor | None) -> list[list[float]]:
        """A row for each option, as `_losses` gives one; one pass for all, since each is one token."""
        losses = -self._logits(prompts, pixels, 1)[:, 0].float().log_softmax(-1)
        return losses[:, ids].T.tolist()

    def _losses(self, prompts: list[list[int]], option: list[int], pixels: Tensor | None) -> list[float]:
        """Mean loss of an option's tokens behind each prompt."""
        logits = self._logits([[*prompt, *option[:-1]] for prompt in prompts], pixels, len(option))
        wanted = torch.tensor(option, device=logits.device)
        return [option_loss(one, wanted) for one in logits]


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompts of any length -> input_ids and attention_mask, both (B, T), padded on the left."""
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), pad_id)
    attention_mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = True
    return input_ids, attention_mask
