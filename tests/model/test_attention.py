"""Products of matrices and the fused kernel give the same, whatever is hidden."""

import pytest
import torch
from torch import Tensor

from qvl.model import attention
from qvl.model.attention import ROWS, attend


def attended(
    up_to: int, causal: bool, mask: Tensor | None, keys: int, patch: pytest.MonkeyPatch, dtype: torch.dtype
) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    patch.setattr(attention, "PRODUCTS_UP_TO", up_to)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(2, 3, keys, 16, generator=generator).bfloat16() for _ in range(3)]
    q, k, v = (tensor.to(dtype).requires_grad_() for tensor in drawn)
    out = attend(q, k, v, mask, causal)
    return [out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))]


@pytest.mark.parametrize("keys", [40, ROWS, 2 * ROWS + 40])
@pytest.mark.parametrize("hides", ["nothing", "later", "a mask"])
def test_either_is_near_the_truth(keys: int, hides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = torch.arange(keys).expand(2, -1) // 33
    seen = (documents[:, :, None] == documents[:, None, :]) & torch.ones(keys, keys, dtype=torch.bool).tril()
    mask = seen[:, None] if hides == "a mask" else None
    truth, fused, products = (
        attended(up_to, hides == "later", mask, keys, monkeypatch, dtype)
        for up_to, dtype in ((0, torch.float32), (0, torch.bfloat16), (10_000, torch.bfloat16))
    )
    for right, *found in zip(truth, fused, products, strict=True):
        for tensor in found:
            assert float((tensor.float() - right).norm().detach() / right.norm().detach()) < 1.5e-2


def test_no_picture_at_all_still_has_gradients() -> None:
    q, k, v = (torch.zeros(0, 2, rows, 8, requires_grad=True) for rows in (4, 9, 9))
    out = attend(q, k, v)
    assert out.shape == (0, 2, 4, 8)
    assert all(g.shape == t.shape for g, t in zip(torch.autograd.grad(out.sum(), (q, k, v)), (q, k, v), strict=True))


def test_what_takes_which() -> None:
    assert attention.by_products("cpu", torch.bfloat16, 1024)
    assert not attention.by_products("cpu", torch.bfloat16, 1025)
    assert not attention.by_products("cpu", torch.float32, 10)
    assert not attention.by_products("cuda", torch.bfloat16, 10)
