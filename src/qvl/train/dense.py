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
from qvl.data.world import DENSE_CHANNELS, dense_sample
from qvl.images import normalize
from qvl.model.config import VisionConfig


class DenseHead(nn.Module):
    """One linear layer on each patch's features: a class per channel, and the box of the object there."""

    def __init__(self, config: VisionConfig, seed: int) -> None:
        super().__init__()
        self.sizes = list(DENSE_CHANNELS.values())
        self.norm = nn.LayerNorm(config.width)
        self.linear = nn.Linear(config.width, sum(self.sizes) + 4)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.linear.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """features (N, P, width), labels (N, P, classes + 4) -> mean loss.

        Patches of objects and letters are few, so each channel averages the background and the rest apart.
        """
        out = self.linear(self.norm(features)).float()
        *logits, boxes = out.split([*self.sizes, 4], dim=-1)
        total = out.new_zeros(())
        for i, channel in enumerate(logits):
            target = labels[..., i]
            losses = F.cross_entropy(channel.flatten(0, 1), target.flatten(), reduction="none")
            some = (target.flatten() > 0).float()
            total = total + (losses * some).sum() / some.sum().clamp(min=1)
            total = total + 0.3 * (losses * (1 - some)).sum() / (1 - some).sum().clamp(min=1)
        corners = labels[..., len(self.sizes) :]
        has_box = (corners[..., :1] >= 0).float()
        errors = F.smooth_l1_loss(boxes, corners / 1000, reduction="none", beta=0.05) * has_box
        return total + 8.0 * errors.sum() / (4 * has_box.sum()).clamp(min=1)

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Share of the patches that hold something whose class is named right, by channel."""
        logits = self.linear(self.norm(features)).float().split([*self.sizes, 4], dim=-1)
        result = {}
        for i, name in enumerate(DENSE_CHANNELS):
            some = labels[..., i] > 0
            right = (logits[i].argmax(-1) == labels[..., i]) & some
            result[name] = float(right.sum() / some.sum().clamp(min=1))
        return result


class DenseLoader:
    """Batches of (pixel_values (N, 3, S, S), labels (N, P, channels)) from a pool drawn once per run."""

    def __init__(self, run_dir: Path, side: int, grid: int, batch_size: int, seed: int) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.pictures = np.load(run_dir / "dense" / f"pictures_{side}.npy", mmap_mode="r")
        self.labels = np.load(run_dir / "dense" / f"labels_{side}_{grid}.npy", mmap_mode="r")
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
