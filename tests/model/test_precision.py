"""Which kernel attention takes on the CPU, and that none of them changes the loss."""

import pytest
import torch

from qvl.model.config import PRESETS
from qvl.model.precision import PLAIN_TOKENS, fast_kernels
from qvl.model.qwen_vl import QwenVL


def test_long_rows_take_the_fused_kernel_and_short_ones_none() -> None:
    for tokens, fused in ((0, False), (PLAIN_TOKENS, False), (PLAIN_TOKENS + 1, True)):
        with fast_kernels("cpu", "float32", tokens):
            assert torch.backends.cuda.flash_sdp_enabled() == fused, tokens


def test_the_loss_of_a_long_row_is_the_same_by_either() -> None:
    torch.manual_seed(0)
    model = QwenVL(PRESETS["tiny"])
    model.initialize(0)
    ids = torch.randint(1000, (2, 300))
    documents = torch.arange(300).expand(2, -1) // 170  # two of a row, and a mask with them
    losses, gradients = [], []
    for tokens in (0, 300):
        model.zero_grad()
        with fast_kernels("cpu", "float32", tokens):
            total, count = model.loss(ids, ids, document_ids=documents)
        (total / count).backward()
        losses.append(float(total.detach() / count))
        gradients.append(model.language.blocks[0].c_attn.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
