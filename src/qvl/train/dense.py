"""The vision warm-up of the tiny recipe: name what lies under each patch.

Stands for "starts from OpenCLIP ViT-bigG" (paper section 3.1): there is no pretrained encoder to start
from on a laptop, and features that know objects, colours and letters are what one would bring.
"""

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
    """One linear layer on each patch's features: what lies there, and the corners of its box as bins."""

    def __init__(self, config: VisionConfig, seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.linear = nn.Linear(config.width, sum(DENSE_CHANNELS.values()))
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """features (N, P, width) -> channel -> (N, P, classes) float32."""
        out = self.linear(self.norm(features)).float()
        return dict(zip(DENSE_CHANNELS, out.split(list(DENSE_CHANNELS.values()), dim=-1), strict=True))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """features (N, P, width), labels (N, P, channels) -> mean loss.

        Patches of objects and letters are few, so each channel averages the background and the rest apart.
        """
        total = features.new_zeros((), dtype=torch.float32)
        for i, (name, logits) in enumerate(self.logits(features).items()):
            target = labels[..., i].flatten()
            if name in COORDINATES:
                total = total + F.cross_entropy(logits.flatten(0, 1), target, ignore_index=NO_LABEL) / 4
                continue
            losses = F.cross_entropy(logits.flatten(0, 1), target, reduction="none")
            some = (target > 0).float()
            total = total + (losses * some).sum() / some.sum().clamp(min=1)
            total = total + BACKGROUND_WEIGHT * (losses * (1 - some)).mean()
        return total

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Share of the patches that hold something whose class is named right, by channel."""
        result = {}
        for i, (name, logits) in enumerate(self.logits(features).items()):
            target = labels[..., i]
            some = target != NO_LABEL if name in COORDINATES else target > 0
            right = (logits.argmax(-1) == target) & some
            result[name] = float(right.sum() / some.sum().clamp(min=1))
        return result


class DenseLoader:
    """Batches of (pixel_values (N, 3, S, S), labels (N, P, channels)) from a pool drawn once per run."""

    def __init__(self, run_dir: Path, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        folder = run_dir / "dense"
        try:
            self.pictures = np.load(folder / "pictures.npy", mmap_mode="r")
            self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise DataError(
                f"{error.filename}: missing; write it with `qvl world --dense N --out {run_dir}`"
            ) from error
        self.state = LoaderState()

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], LoaderState]]:
        while True:
            position = self.state.position
            chosen = [self._index(position + i) for i in range(self.batch_size)]
            self.state.position += self.batch_size
            pixels = normalize(torch.from_numpy(np.stack([self.pictures[i] for i in chosen])))
            labels = torch.from_numpy(np.stack([self.labels[i] for i in chosen])).long().flatten(1, 2)
            yield (pixels, labels), LoaderState.from_dict(self.state.as_dict())

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.pictures))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.pictures))
        return int(self._order[place])
