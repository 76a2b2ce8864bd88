"""The vision warm-up of the tiny recipe: name what lies under each patch.

Stands for "starts from OpenCLIP ViT-bigG" (paper section 3.1): there is no pretrained encoder to start
from on a laptop, and features that know objects, colours and letters, and the words for them, are what one
would bring.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.data.loader import State
from qvl.data.world.draw import COORDINATE_BINS, COORDINATES, DENSE_CHANNELS, NO_LABEL, class_words
from qvl.errors import DataError
from qvl.model.config import VisionConfig
from qvl.text.tokenizer import Tokenizer

BACKGROUND_WEIGHT = 0.3
ABSENT_WEIGHT = 0.5


@dataclass(frozen=True)
class Words:
    """How the language model writes what the dense labels name: a direction for each word of each class."""

    directions: Tensor  # (W, D), of length 1
    channels: Tensor  # (W,) which of DENSE_CHANNELS
    classes: Tensor  # (W,) which class of it


def dense_words(embedding: Tensor, tokenizer: Tokenizer, seed: int) -> Words:
    """Words in both languages for kinds and colours, one for each glyph: their tokens' embeddings (V, D), averaged,
    without what all tokens share. A corner's bins have no words of their own: random directions stand for them.
    """
    rows: list[Tensor] = []
    places: list[tuple[int, int]] = []
    names = list(DENSE_CHANNELS)
    common = embedding.mean(0)
    for channel, label, text in class_words():
        rows.append(embedding[tokenizer.encode(text)].mean(0) - common)
        places.append((names.index(channel), label))
    generator = torch.Generator().manual_seed(seed)
    for channel in COORDINATES:
        rows.extend(torch.randn(COORDINATE_BINS, embedding.shape[1], generator=generator))
        places += [(names.index(channel), label) for label in range(COORDINATE_BINS)]
    channels, classes = torch.tensor(places).unbind(1)
    return Words(F.normalize(torch.stack(rows).detach(), dim=-1), channels, classes)


class DenseHead(nn.Module):
    """What lies under each patch and the corners of its box as bins, named from two places by one linear layer
    each: from the patch's own features, and from the adapter's query that stands nearest; and the words for it,
    looked for in the query as the language model writes them.

    The second reading makes the adapter pass on what the ViT knows, the third makes it do so in the language
    model's words. Raises ValueError when the queries don't share the patches out evenly.
    """

    word_directions: Tensor
    word_channels: Tensor
    word_classes: Tensor

    def __init__(self, config: VisionConfig, seed: int, words: Words) -> None:
        super().__init__()
        self.side = math.isqrt(config.num_queries)
        if config.grid % self.side:
            raise ValueError(f"{config.grid} patches along a side can't be shared out among {self.side} queries")
        self.block = config.grid // self.side  # patches along a side of what one query stands for
        classes = sum(DENSE_CHANNELS.values())
        generator = torch.Generator().manual_seed(seed)
        self.of_patch = _reader(config.width, classes, generator)
        self.of_query = _reader(config.output_dim, classes * self.block**2, generator)
        for name, values in vars(words).items():  # move with the head, and are made anew on resume
            self.register_buffer(f"word_{name}", values, persistent=False)
        self.word_scale = nn.Parameter(torch.tensor(1.0))
        self.word_bias = nn.Parameter(torch.tensor(-4.0))  # most words are absent

    def logits(self, features: Tensor, queries: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """features (N, P, width), queries (N, Q, output_dim) -> both readings: channel -> (N, P, classes) float32."""
        blocks = self.of_query(queries).view(len(queries), self.side, self.side, self.block, self.block, -1)
        by_query = blocks.transpose(2, 3).flatten(1, 4)  # (N, P, classes), patches row by row
        first, second = (
            dict(zip(DENSE_CHANNELS, out.float().split(list(DENSE_CHANNELS.values()), dim=-1), strict=True))
            for out in (self.of_patch(features), by_query)
        )
        return first, second

    def loss(self, features: Tensor, queries: Tensor, labels: Tensor) -> Tensor:
        """labels (N, P, channels) -> mean loss of the three readings together."""
        total = self.word_loss(queries, labels)
        for reading in self.logits(features, queries):
            total = total + _reading_loss(reading, labels)
        return total

    def word_loss(self, queries: Tensor, labels: Tensor) -> Tensor:
        """Which words hold under any of a query's patches: binary cross-entropy, absent ones at a lower weight."""
        seen = F.layer_norm(queries.float(), queries.shape[-1:]) @ self.word_directions.T  # (N, Q, W)
        losses_if_present = F.softplus(-(self.word_scale * seen + self.word_bias))
        losses_if_absent = F.softplus(self.word_scale * seen + self.word_bias)
        present = (self._by_query(labels)[..., self.word_channels] == self.word_classes).any(2).float()
        losses = losses_if_present * present + ABSENT_WEIGHT * losses_if_absent * (1 - present)
        return losses.sum() / present.sum().clamp(min=1)

    def _by_query(self, labels: Tensor) -> Tensor:
        """(N, P, channels), patches row by row -> (N, Q, patches of a query, channels)."""
        blocks = labels.view(len(labels), self.side, self.block, self.side, self.block, -1)
        return blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    @torch.no_grad()
    def accuracy(self, features: Tensor, queries: Tensor, labels: Tensor) -> dict[str, float]:
        """Share of the patches that hold something whose class the adapter's queries name right, by channel."""
        result = {}
        for i, (name, logits) in enumerate(self.logits(features, queries)[1].items()):
            target = labels[..., i]
            some = target != NO_LABEL if name in COORDINATES else target > 0
            right = (logits.argmax(-1) == target) & some
            result[name] = float(right.sum() / some.sum().clamp(min=1))
        return result


def _reader(width: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    linear = nn.Linear(width, classes)
    nn.init.normal_(linear.weight, std=0.02, generator=generator)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.LayerNorm(width), linear)


def _reading_loss(reading: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Patches of objects and letters are few, so each channel averages the background and the rest apart."""
    total = torch.zeros((), device=labels.device)
    for i, (name, logits) in enumerate(reading.items()):
        target = labels[..., i].flatten()
        if name in COORDINATES:
            total = total + F.cross_entropy(logits.flatten(0, 1), target, ignore_index=NO_LABEL) / 4
            continue
        losses = F.cross_entropy(logits.flatten(0, 1), target, reduction="none")
        some = (target > 0).float()
        total = total + (losses * some).sum() / some.sum().clamp(min=1)
        total = total + BACKGROUND_WEIGHT * (losses * (1 - some)).mean()
    return total


class DenseLoader:
    """Batches of (pixels (N, 3, S, S) uint8, labels (N, P, channels)) from a pool drawn once per run."""

    def __init__(self, folder: Path, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        try:
            self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
            self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise DataError(
                f"{error.filename}: missing; write it with `qvl world --dense N --out {folder.parent}`"
            ) from error
        self.position = 0  # pictures read

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], State]]:
        """Endless batches, each with the state that follows it; a thread makes the next one meanwhile.

        The thread leaves torch's operators alone: it would get an OpenMP team of its own, and every operator of the
        training thread would be a quarter slower from then on.
        """
        with ThreadPoolExecutor(1) as executor:
            pending = executor.submit(self._batch, self.position)
            for position in count(self.position + self.batch_size, self.batch_size):
                pixels, labels = pending.result()
                pending = executor.submit(self._batch, position)
                batch = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels).flatten(1, 2)
                yield batch, {"position": position}

    def resume(self, state: State) -> None:
        """Go on from this state."""
        self.position = state["position"]

    def _batch(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = [self._index(position + i) for i in range(self.batch_size)]
        pixels = np.stack([self.pictures[i] for i in chosen])
        return pixels, np.stack([self.labels[i] for i in chosen]).astype(np.int64)

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.pictures))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        return int(self._order[place])
