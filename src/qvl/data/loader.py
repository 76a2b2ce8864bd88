"""Shards -> batches of tensors: the streams' rows with their pictures decoded, a few batches ahead of the trainer.

What a batch holds is decided in stream.py. A run has a fixed number of streams, whatever the number of ranks, and a
rank reads some of them: so a step sees the same samples on any number of ranks, and a run can go on with another one.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qvl import images
from qvl.data.pools import find_parts, fingerprint
from qvl.data.stream import Drawn, Row, Stream, StreamConfig, StreamState
from qvl.errors import DataError, ImageError, UsageError
from qvl.text.special_tokens import IGNORE_INDEX, MARKUP_TOKENS
from qvl.text.tokenizer import Tokenizer

PACKINGS = ("none", "isolated", "interleaved")
AHEAD = 4  # batches whose pictures are decoded before they are asked for
State = dict[str, Any]  # stream -> where it stands; fits a JSON file


@dataclass(frozen=True)
class Batch:
    """What a training step consumes."""

    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, IGNORE_INDEX where there is no loss
    document_ids: Tensor  # (B, T) int64, equal where tokens may see each other, -1 at padding
    pixels: Tensor  # (N, 3, S, S) uint8, in reading order of the rows; N may be 0
    loss_weights: Tensor | None  # (B, T) float32, aligned with labels; None: every supervised token counts alike
    sample_ids: tuple[str, ...]  # in reading order, for tracing a batch to its rows

    @property
    def num_tokens(self) -> int:
        """Real tokens: padding is not counted."""
        return int((self.document_ids >= 0).sum())

    @property
    def isolates(self) -> bool:
        """Whether a row holds documents that don't see each other; else plain causal attention is right, as padding is
        on the right."""
        return int(self.document_ids.max()) > 0

    @property
    def document_lengths(self) -> list[int]:
        """Tokens of each run of tokens that see each other, in reading order."""
        rows = self.document_ids.numpy()
        numbers = np.where(rows < 0, -1, rows + np.arange(len(rows))[:, None] * rows.shape[1])
        _, counts = np.unique(numbers[numbers >= 0], return_counts=True)
        return counts.tolist()


class Loader:
    """Endless batches of a rank's streams, one of each in turn.

    packing "none": a sample a row; "isolated": rows of samples that don't see each other; "interleaved": later samples
    of a row see the earlier ones (the paper's).
    """

    def __init__(
        self,
        split_dirs: Sequence[Path],
        tokenizer: Tokenizer,
        mixture: Mapping[str, float],
        *,
        batch_rows: int,
        row_length: int,
        packing: str,
        loss_by: str,
        image_size: int,
        num_image_tokens: int,
        seed: int,
        streams: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """batch_rows: of a stream's batch. UsageError when the ranks can't share the streams evenly."""
        if streams % ranks:
            raise UsageError(f"{ranks} ranks can't share {streams} streams evenly: choose a divisor of {streams}")
        self.packing, self.loss_by, self.image_size = packing, loss_by, image_size
        tags = [tokenizer.special.id_of(tag) for tag in MARKUP_TOKENS]
        self.opening_tags, self.closing_tags = tags[::2], tags[1::2]
        config = StreamConfig(mixture, batch_rows, row_length, packing != "none", num_image_tokens, seed)
        parts = find_parts(split_dirs, sorted(task for task, weight in mixture.items() if weight > 0))
        self.shards = fingerprint(parts)
        self.streams = [Stream(parts, tokenizer, config, n, streams) for n in range(rank, streams, ranks)]

    def __iter__(self) -> Iterator[tuple[Batch, State]]:
        """Each batch with the state that follows it. To go on from one, take it after a batch of every stream."""
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), "decode") as decoders:
            pending: deque[tuple[list[Row], Tensor, list[Future[None]], State]] = deque()
            try:
                for rows, state in self.rows():
                    pixels, futures = self._decode(rows, decoders)
                    pending.append((rows, pixels, futures, state))
                    if len(pending) > AHEAD:
                        rows, pixels, futures, state = pending.popleft()
                        for future in futures:
                            future.result()
                        yield self._collate(rows, pixels), state
            finally:  # an error, or the end of training, does not wait for what is decoded ahead
                decoders.shutdown(wait=False, cancel_futures=True)

    def resume(self, state: State) -> None:
        """Go on from this state, which may hold the streams of other ranks too."""
        for stream in self.streams:
            stream.state = StreamState.from_dict(state[str(stream.number)])

    def rows(self) -> Iterator[tuple[list[Row], State]]:
        """The rows of each batch, pictures as they lie in the shards, with the state that follows it."""
        state = {str(stream.number): stream.state.as_dict() for stream in self.streams}
        with ThreadPoolExecutor(1, "plan") as planner:
            sources = [(str(stream.number), stream.batches(planner)) for stream in self.streams]
            while True:
                for number, batches in sources:
                    rows, after = next(batches)
                    state = {**state, number: after.as_dict()}
                    yield rows, state

    def _decode(self, rows: list[Row], decoders: Executor) -> tuple[Tensor, list[Future[None]]]:
        """Room for the pictures of the rows, and what fills it."""
        shown = [(drawn, index) for row in rows for drawn in row for index in drawn.rendered.image_indices]
        pixels = torch.empty(len(shown), 3, self.image_size, self.image_size, dtype=torch.uint8)
        place = pixels.numpy()
        return pixels, [
            decoders.submit(_decode_into, place[k], drawn, index, self.image_size)
            for k, (drawn, index) in enumerate(shown)
        ]

    def _piece_weights(self, labels: np.ndarray) -> np.ndarray:
        """n ** -0.5 for every supervised token of a piece of n: a text, a phrase, a box or a quad with its tags."""
        supervised = labels != IGNORE_INDEX
        begins = np.isin(labels, self.opening_tags)
        begins[1:] |= np.isin(labels[:-1], self.closing_tags) | (supervised[1:] != supervised[:-1])
        pieces = np.cumsum(begins)
        return (np.bincount(pieces)[pieces] ** -0.5).astype(np.float32)

    def _collate(self, rows: list[Row], pixels: Tensor) -> Batch:
        width = max(sum(drawn.length for drawn in row) for row in rows)
        input_ids = np.zeros((len(rows), width), dtype=np.int64)
        labels = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
        document_ids = np.full((len(rows), width), -1, dtype=np.int64)
        weights = np.zeros((len(rows), width), dtype=np.float32) if self.loss_by == "square_root" else None
        for r, row in enumerate(rows):
            start = 0
            for document, drawn in enumerate(row):
                end = start + drawn.length
                input_ids[r, start:end] = drawn.rendered.input_ids
                labels[r, start:end] = drawn.rendered.labels
                # Shifted inside the loss: the first token must not be the target of the document before.
                labels[r, start] = IGNORE_INDEX
                document_ids[r, start:end] = 0 if self.packing == "interleaved" else document
                if weights is not None:
                    weights[r, start:end] = self._piece_weights(labels[r, start:end])
                start = end
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(labels),
            torch.from_numpy(document_ids),
            pixels,
            torch.from_numpy(weights) if weights is not None else None,
            tuple(drawn.sample.id for row in rows for drawn in row),
        )


def _decode_into(place: np.ndarray, drawn: Drawn, index: int, size: int) -> None:
    try:
        place[:] = images.training_pixels(drawn.sample.images[index], size).numpy()
    except ImageError as error:
        raise DataError(f"sample {drawn.sample.id!r}: {error}; `qvl data lint` names all such samples") from error


def lost(state: State) -> tuple[int, int]:
    """(samples that are longer than a row, dialogues that lost their last turns) up to a state."""
    counts = [s["lost"] for s in state.values()]
    return sum(left_out for left_out, _ in counts), sum(cut for _, cut in counts)
