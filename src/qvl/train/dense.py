"""The vision warm-up of the tiny recipe: name what lies under each patch.

Stands for "starts from OpenCLIP ViT-bigG" (paper section 3.1): there is no pretrained encoder to start
from on a laptop, and features that know objects, colours and letters are what one would bring.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.data.loader import LoaderState
from qvl.data.world.draw import COORDINATES, DENSE_CHANNELS, NO_LABEL
from qvl.errors import DataError
from qvl.images import normalize
from qvl.model.config import VisionConfig

BACKGROUND_WEIGHT = 0.3


class DenseHead(nn.Module):
    """What lies under each patch and the corners of its box as bins, named from two places by one linear layer
    each: from the patch's own features, and from the adapter's query that stands nearest.

    The second reading makes the adapter pass on what the ViT knows. Raises ValueError when the queries don't
    share the patches out evenly.
    """

    def __init__(self, config: VisionConfig, seed: int) -> None:
        super().__init__()
        self.side = math.isqrt(config.num_queries)
        if config.grid % self.side:
            raise ValueError(f"{config.grid} patches along a side can't be shared out among {self.side} queries")
        self.block = config.grid // self.side  # patches along a side of what one query stands for
        classes = sum(DENSE_CHANNELS.values())
        generator = torch.Generator().manual_seed(seed)
        self.of_patch = _reader(config.width, classes, generator)
        self.of_query = _reader(config.output_dim, classes * self.block**2, generator)

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
        """labels (N, P, channels) -> mean loss of the two readings together."""
        total = features.new_zeros((), dtype=torch.float32)
        for reading in self.logits(features, queries):
            total = total + _reading_loss(reading, labels)
        return total

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
    """Batches of (pixel_values (N, 3, S, S), labels (N, P, channels)) from a pool drawn once per run."""

    def __init__(self, folder: Path, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        try:
            self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
            self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise DataError(
                f"{error.filename}: missing; write it with `qvl world --dense N --out {folder.parent}`"
            ) from error
        self.state = LoaderState()

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], LoaderState]]:
        while True:
            position = self.state.position
            chosen = [self._index(position + i) for i in range(self.batch_size)]
            self.state.position += self.batch_size
            pixels = torch.from_numpy(normalize(np.stack([self.pictures[i] for i in chosen])))
            labels = torch.from_numpy(np.stack([self.labels[i] for i in chosen])).long().flatten(1, 2)
            yield (pixels, labels), LoaderState.from_dict(self.state.as_dict())

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.pictures))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        return int(self._order[place])
