"""Shards -> batches of tensors: a weighted mixture of tasks, packed or padded, with exact resume.

The order is a pure function of (seed, mixture, shards): the loader's state is a few integers, and a run
that resumes from it sees the same batches as one that was never stopped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from qvl import images
from qvl.data.packing import pack
from qvl.data.sample import Sample, read_split
from qvl.errors import DataError
from qvl.text.render import Rendered, render
from qvl.text.special_tokens import IGNORE_INDEX, MARKUP_TOKENS
from qvl.text.tokenizer import Tokenizer

Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """What a training step consumes."""

    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, IGNORE_INDEX where there is no loss
    document_ids: Tensor  # (B, T) int64, -1 at padding
    pixel_values: Tensor | None  # (N, 3, S, S) float32, in reading order of the rows
    loss_weights: Tensor | None  # (B, T) float32, aligned with labels; None: every supervised token counts alike
    sample_ids: tuple[str, ...]  # in reading order, for tracing a batch to its rows

    @property
    def num_tokens(self) -> int:
        """Real tokens: padding is not counted."""
        return int((self.document_ids >= 0).sum())


@dataclass
class LoaderState:
    """Where the stream of samples stands."""

    position: int = 0
    drawn: dict[str, int] = field(default_factory=dict)  # task -> samples taken from its pool
    held: list[int] = field(default_factory=list)  # drawn, but not yet placed in a row

    def as_dict(self) -> dict[str, Any]:
        return {"position": self.position, "drawn": dict(self.drawn), "held": list(self.held)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoaderState":
        return cls(values["position"], dict(values["drawn"]), list(values["held"]))


def prefetched(make: Callable[[], Made]) -> Iterator[Made]:
    """Endless results of make(); a thread makes the next one meanwhile.

    make() must leave torch's operators alone: a second thread that runs them gets its own OpenMP team, and every
    operator of the training thread is a quarter slower from then on.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        pending = executor.submit(make)
        while True:
            ready = pending.result()
            pending = executor.submit(make)
            yield ready


class Loader:
    """Batches of a mixture of tasks. `dropped` counts samples that do not fit a row, by id."""

    def __init__(
        self,
        split_dirs: Sequence[Path],
        tokenizer: Tokenizer,
        mixture: Mapping[str, float],
        *,
        batch_rows: int,
        row_length: int,
        packing: bool,
        loss_by: str,
        image_size: int,
        num_image_tokens: int,
        seed: int,
    ) -> None:
        self.mixture = {task: weight for task, weight in sorted(mixture.items()) if weight > 0}
        self.batch_rows, self.row_length, self.packing = batch_rows, row_length, packing
        self.loss_by, self.image_size, self.seed = loss_by, image_size, seed
        tags = [tokenizer.special.id_of(tag) for tag in MARKUP_TOKENS]
        self.opening_tags, self.closing_tags = tags[::2], tags[1::2]
        self.samples: list[Sample] = []
        self.rendered: list[Rendered] = []
        self.dropped: list[str] = []
        self.truncated: list[str] = []
        self.pools: dict[str, list[int]] = {task: [] for task in self.mixture}
        for directory in split_dirs:
            for sample in read_split(directory):
                if sample.task in self.pools:
                    self._add(sample, tokenizer, num_image_tokens)
        for task, pool in self.pools.items():
            if not pool:
                where = ", ".join(map(str, split_dirs))
                raise DataError(f"{where}: no usable sample of task {task!r}, which the mixture asks for")
        self.state = LoaderState()

    def _add(self, sample: Sample, tokenizer: Tokenizer, num_image_tokens: int) -> None:
        turns = [(turn.role, turn.content) for turn in sample.turns]
        rendered = render(turns, sample.task, tokenizer, num_image_tokens, max_length=self.row_length)
        if rendered is None:
            self.dropped.append(sample.id)
            return
        if rendered.dropped_turns:
            self.truncated.append(sample.id)
        self.pools[sample.task].append(len(self.samples))
        self.samples.append(sample)
        self.rendered.append(rendered)

    def __iter__(self) -> Iterator[tuple[Batch, LoaderState]]:
        """Endless batches, each with the state that follows it."""
        return prefetched(self._next)

    def _next(self) -> tuple[Batch, LoaderState]:
        return self._collate(self._rows()), LoaderState.from_dict(self.state.as_dict())

    def next_samples(self) -> list[Sample]:
        """The samples of the next batch in reading order, without making it; the state moves on as if it were made."""
        return [self.samples[i] for row in self._rows() for i in row]

    def _rows(self) -> list[list[int]]:
        """Indices of the samples in each row of the next batch."""
        return self._packed_rows() if self.packing else [[self._draw()] for _ in range(self.batch_rows)]

    def _draw(self) -> int:
        """Index of the next sample of the stream."""
        tasks = list(self.mixture)
        weights = np.array([self.mixture[task] for task in tasks])
        rng = np.random.default_rng((self.seed, 0, self.state.position))
        task = tasks[int(rng.choice(len(tasks), p=weights / weights.sum()))]
        self.state.position += 1
        count = self.state.drawn.get(task, 0)
        self.state.drawn[task] = count + 1
        epoch, place = divmod(count, len(self.pools[task]))
        return self.pools[task][self._permutation(task, epoch)[place]]

    def _permutation(self, task: str, epoch: int) -> np.ndarray:
        key = (task, epoch)
        cached = getattr(self, "_permutations", {})
        if key not in cached:
            rng = np.random.default_rng((self.seed, 1 + list(self.mixture).index(task), epoch))
            cached = {k: v for k, v in cached.items() if k[0] != task}
            cached[key] = rng.permutation(len(self.pools[task]))
            self._permutations = cached
        return cached[key]

    def _packed_rows(self) -> list[list[int]]:
        """Draw a little more than a batch holds, pack the best of it, hold the rest for the next one."""
        candidates, self.state.held = self.state.held, []
        budget = int(1.1 * self.batch_rows * self.row_length)
        while sum(len(self.rendered[i].input_ids) for i in candidates) < budget:
            candidates.append(self._draw())
        lengths = [len(self.rendered[i].input_ids) for i in candidates]
        rows, left_over = pack(lengths, self.batch_rows, self.row_length)
        self.state.held = [candidates[i] for i in left_over]
        return [[candidates[i] for i in row] for row in rows]

    def _piece_weights(self, labels: np.ndarray) -> np.ndarray:
        """n ** -0.5 for every supervised token of a piece of n: a text, a phrase, a box or a quad with its tags."""
        supervised = labels != IGNORE_INDEX
        begins = np.isin(labels, self.opening_tags)
        begins[1:] |= np.isin(labels[:-1], self.closing_tags) | (supervised[1:] != supervised[:-1])
        pieces = np.cumsum(begins)
        return (np.bincount(pieces)[pieces] ** -0.5).astype(np.float32)

    def _collate(self, rows: list[list[int]]) -> Batch:
        width = max(sum(len(self.rendered[i].input_ids) for i in row) for row in rows)
        input_ids = np.zeros((len(rows), width), dtype=np.int64)
        labels = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
        document_ids = np.full((len(rows), width), -1, dtype=np.int64)
        weights = np.zeros((len(rows), width), dtype=np.float32) if self.loss_by == "square_root" else None
        pixels: list[np.ndarray] = []
        for r, row in enumerate(rows):
            start = 0
            for document, i in enumerate(row):
                rendered, sample = self.rendered[i], self.samples[i]
                end = start + len(rendered.input_ids)
                input_ids[r, start:end] = rendered.input_ids
                labels[r, start:end] = rendered.labels
                # Shifted inside the loss: the first token must not be the target of the document before.
                labels[r, start] = IGNORE_INDEX
                document_ids[r, start:end] = document
                if weights is not None:
                    weights[r, start:end] = self._piece_weights(labels[r, start:end])
                pixels.extend(
                    images.preprocess(sample.images[k], self.image_size).numpy() for k in rendered.image_indices
                )
                start = end
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(labels),
            torch.from_numpy(document_ids),
            torch.from_numpy(np.stack(pixels)) if pixels else None,
            torch.from_numpy(weights) if weights is not None else None,
            tuple(self.samples[i].id for row in rows for i in row),
        )
