"""The vision warm-up's reading of patches, directly and through the adapter's queries."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qvl.data.world.draw import DENSE_CHANNELS
from qvl.model.config import PRESETS
from qvl.train.dense import DenseHead

VISION = PRESETS["tiny"].vision
CLASSES = sum(DENSE_CHANNELS.values())


class NamesItsPlace(nn.Module):
    """Says, in every class, which query it read and which of the query's patches it speaks of."""

    def forward(self, queries: Tensor) -> Tensor:
        n, q, _ = queries.shape
        place = 10 * torch.arange(q)[:, None] + torch.arange(4)  # (Q, 4)
        return place[None, :, :, None].expand(n, q, 4, CLASSES).flatten(2).float()


def test_each_patch_is_read_from_the_query_that_stands_for_it() -> None:
    head = DenseHead(VISION, 0)
    head.of_query = NamesItsPlace()
    features, queries = torch.zeros(2, 64, VISION.width), torch.zeros(2, 16, VISION.output_dim)
    kind = head.logits(features, queries)[1]["kind"]
    places = kind[0, :, 0].view(8, 8)  # row by row
    assert places[0, :4].tolist() == [0, 1, 10, 11]
    assert places[1, :4].tolist() == [2, 3, 12, 13]
    assert places[7, 7] == 10 * 15 + 3


def test_accuracy_counts_only_patches_that_hold_something() -> None:
    head = DenseHead(VISION, 0)
    features, queries = torch.randn(1, 64, VISION.width), torch.randn(1, 16, VISION.output_dim)
    said = {name: logits.argmax(-1) for name, logits in head.logits(features, queries)[1].items()}
    labels = torch.stack([said[name] for name in DENSE_CHANNELS], dim=-1)
    labels[..., 0] = 0
    labels[0, 5, 0] = 1 + (said["kind"][0, 5] == 1).long()  # the only thing, and named wrong
    accuracy = head.accuracy(features, queries, labels)
    assert accuracy["kind"] == 0
    assert accuracy["x1"] == 1


def test_queries_that_cannot_share_the_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="8 patches along a side"):
        DenseHead(replace(VISION, num_queries=9), 0)
