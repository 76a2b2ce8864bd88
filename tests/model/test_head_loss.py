"""The head's loss in chunks: the numbers and gradients of the plain one, in the memory of a chunk."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qvl.model import loss as loss_module
from qvl.model.loss import head_loss

PLACES, CLASSES, SIZE = 37, 50, 16


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(PLACES, SIZE, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(CLASSES, SIZE, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(CLASSES, (PLACES,), generator=generator)
    return hidden, weight, targets, torch.rand(PLACES, generator=generator)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    losses = F.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")
    return losses.sum() if weights is None else (losses * weights).sum()


@pytest.mark.parametrize("rows", [1, 5, 36, 37, 1000])  # a last chunk of 1, of 2, ...; 37 and more: no chunks
@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_change_nothing(rows: int, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "HELD_LOGITS", rows * CLASSES)
    hidden, weight, targets, weights = inputs()
    each = weights if weighted else None
    total, count = head_loss(hidden, weight, targets, each)
    grads = torch.autograd.grad(total * 3, (hidden, weight))
    expected = plain(hidden, weight, targets, each)
    assert torch.allclose(total, expected, rtol=1e-6)
    assert float(count) == pytest.approx(float(weights.sum()) if weighted else PLACES)
    for found, wanted in zip(grads, torch.autograd.grad(expected * 3, (hidden, weight)), strict=True):
        assert torch.allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize(("trains_hidden", "trains_weight"), [(True, False), (False, True), (False, False)])
def test_frozen_sides_get_no_gradient(
    trains_hidden: bool, trains_weight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1: the head is frozen and the hidden states carry the gradient on."""
    monkeypatch.setattr(loss_module, "HELD_LOGITS", 4 * CLASSES)
    hidden, weight, targets, _ = inputs()
    hidden, weight = hidden.detach().requires_grad_(trains_hidden), weight.detach().requires_grad_(trains_weight)
    total, _ = head_loss(hidden, weight, targets)
    assert torch.allclose(total, plain(hidden, weight, targets, None), rtol=1e-6)
    if trains_hidden or trains_weight:
        total.backward()
    assert (hidden.grad is not None, weight.grad is not None) == (trains_hidden, trains_weight)


def test_bf16_autocast_errs_as_little_as_the_plain_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "HELD_LOGITS", 8 * CLASSES)
    hidden, weight, targets, _ = inputs()
    exact = torch.autograd.grad(plain(hidden, weight, targets, None), (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = head_loss(hidden, weight, targets)
        rounded = plain(hidden, weight, targets, None)
    assert total.dtype == torch.float32
    assert torch.allclose(total, rounded, rtol=1e-3)
    grads, plain_grads = (torch.autograd.grad(value, (hidden, weight)) for value in (total, rounded))
    for wanted, found, other in zip(exact, grads, plain_grads, strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 1.5 * (other - wanted).norm() + 1e-6


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made within holds."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel())
        return result


def test_the_logits_are_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "HELD_LOGITS", 4 * CLASSES)
    hidden, weight, targets, _ = inputs()
    with Largest() as largest:
        head_loss(hidden, weight, targets)[0].backward()
    assert largest.numbers == CLASSES * SIZE  # the weight's own gradient; the logits are PLACES * CLASSES
