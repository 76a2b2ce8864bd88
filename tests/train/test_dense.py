"""The vision warm-up's reading of patches: directly, through the adapter's queries, and in words."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qvl.data.world.draw import DENSE_CHANNELS, NO_LABEL
from qvl.model.config import PRESETS
from qvl.text.tokenizer import Tokenizer
from qvl.train.dense import DenseHead, dense_words

VISION = PRESETS["tiny"].vision
CLASSES = sum(DENSE_CHANNELS.values())
EMBEDDING = torch.randn(1024, VISION.output_dim, generator=torch.Generator().manual_seed(3))
WORDS = dense_words(EMBEDDING, Tokenizer.tiny(), 0)


class NamesItsPlace(nn.Module):
    """Says, in every class, which query it read and which of the query's patches it speaks of."""

    def forward(self, queries: Tensor) -> Tensor:
        n, q, _ = queries.shape
        place = 10 * torch.arange(q)[:, None] + torch.arange(4)  # (Q, 4)
        return place[None, :, :, None].expand(n, q, 4, CLASSES).flatten(2).float()


def test_each_patch_is_read_from_the_query_that_stands_for_it() -> None:
    head = DenseHead(VISION, 0, WORDS)
    head.of_query = NamesItsPlace()
    features, queries = torch.zeros(2, 64, VISION.width), torch.zeros(2, 16, VISION.output_dim)
    kind = head.logits(features, queries)[1]["kind"]
    places = kind[0, :, 0].view(8, 8)  # row by row
    assert places[0, :4].tolist() == [0, 1, 10, 11]
    assert places[1, :4].tolist() == [2, 3, 12, 13]
    assert places[7, 7] == 10 * 15 + 3


def test_accuracy_counts_only_patches_that_hold_something() -> None:
    head = DenseHead(VISION, 0, WORDS)
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
        DenseHead(replace(VISION, num_queries=9), 0, WORDS)


def test_every_class_that_has_a_name_has_its_words() -> None:
    told = {(int(channel), int(label)) for channel, label in zip(WORDS.channels, WORDS.classes, strict=True)}
    names = list(DENSE_CHANNELS)
    for name, nameless in {"kind": {0, 11}, "colour": {0}, "glyph": {0}, "x1": set(), "y2": set()}.items():
        channel = names.index(name)
        assert {label for c, label in told if c == channel} == set(range(DENSE_CHANNELS[name])) - nameless, name
    assert torch.allclose(WORDS.directions.norm(dim=1), torch.ones(len(WORDS.directions)))


def test_a_query_that_holds_the_words_of_its_patches_has_the_least_loss() -> None:
    head = DenseHead(VISION, 0, WORDS)
    with torch.no_grad():
        head.word_scale.fill_(3.0)
        head.word_bias.fill_(-20.0)
    labels = torch.zeros(1, 64, len(DENSE_CHANNELS), dtype=torch.long)
    labels[..., -4:] = NO_LABEL
    labels[0, 8 * 2 + 7, :2] = torch.tensor([5, 2])  # the third row's last patch: the query at (1, 3)
    mine = (WORDS.channels == 0) & (WORDS.classes == 5) | (WORDS.channels == 1) & (WORDS.classes == 2)
    queries = torch.randn(1, 16, VISION.output_dim, generator=torch.Generator().manual_seed(1))
    assert int(mine.sum()) == 4, "a kind and a colour, in two languages"

    def loss_with_words_at(place: int) -> float:
        filled = queries.clone()
        filled[0, place] = 40 * WORDS.directions[mine].sum(0)
        return float(head.word_loss(filled, labels).detach())

    assert min(range(16), key=loss_with_words_at) == 4 * 1 + 3
