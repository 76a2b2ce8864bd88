"""Blocks that run again in the backward pass learn what blocks that keep their activations learn."""

import pytest
import torch

from qvl.model.config import PRESETS
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.train.parallel import prepare_blocks
from qvl.train.recipe import ParallelConfig

CONFIG = PRESETS["tiny"]


def gradients(precision: str, again: bool) -> dict[str, torch.Tensor]:
    model = QwenVL(CONFIG)
    model.initialize(0)
    prepare_blocks(model, ParallelConfig(checkpoint_activations=again))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 1000, (2, 32), generator=generator)
    ids[:, 0], ids[:, 17] = CONFIG.image_start_id, CONFIG.image_end_id
    pixels = torch.randn(2, 3, 112, 112, generator=generator)
    documents = torch.zeros_like(ids)
    with fast_kernels("cpu", precision):
        loss, _ = model.loss(ids, ids, pixels, document_ids=documents)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_gradients_are_the_same(precision: str) -> None:
    kept, made_again = gradients(precision, False), gradients(precision, True)
    assert kept.keys() == made_again.keys()
    for name, gradient in kept.items():
        assert torch.equal(gradient, made_again[name]), name
