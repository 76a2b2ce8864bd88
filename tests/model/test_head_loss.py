"""The head and its loss in chunks: the same numbers as all logits at once, without holding them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qvl.model import loss
from qvl.model.loss import chunked_loss, head_loss, next_token_loss

PLACES, WIDTH, VOCABULARY = 23, 16, 101


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, the head's weight, targets and weights of the tokens, one of them zero."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(PLACES, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCABULARY, (PLACES,), generator=generator)
    weights = torch.rand(PLACES, generator=generator)
    weights[4] = 0
    return hidden, weight, targets, weights


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    return next_token_loss(torch.nn.functional.linear(hidden, weight), targets, weights)[0]


def with_gradients(function: Any, hidden: Tensor, weight: Tensor, *rest: Any, scale: float = 1.0) -> list[Tensor]:
    """The loss, and the gradients of scale times it for what trains."""
    total = function(hidden, weight, *rest)
    trains = [t for t in (hidden, weight) if t.requires_grad]
    return [total.detach(), *torch.autograd.grad(total * scale, trains)]


@pytest.mark.parametrize("rows", [1, 7, 22, 23, 24])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_loss_of_all_logits(rows: int, weighted: bool) -> None:
    hidden, weight, targets, weights = case()
    given = weights if weighted else None
    expected = with_gradients(naive, hidden, weight, targets, given, scale=0.25)
    found = with_gradients(chunked_loss, hidden, weight, targets, given, rows, scale=0.25)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_differences() -> None:
    hidden, weight, targets, weights = case(torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: chunked_loss(h, w, targets, weights, 5), (hidden, weight))


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    """Stage 1 trains what is in front of the head, and not the head."""
    hidden, weight, targets, weights = case()
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    expected = with_gradients(naive, hidden, weight, targets, weights)
    found = with_gradients(chunked_loss, hidden, weight, targets, weights, 7)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (hidden if frozen == "hidden" else weight).grad is None


def test_under_autocast_it_rounds_as_the_naive_one_does() -> None:
    hidden, weight, targets, weights = case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = with_gradients(naive, hidden, weight, targets, weights)
        found = with_gradients(chunked_loss, hidden, weight, targets, weights, 7)
    exact = with_gradients(naive, hidden, weight, targets, weights)
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    for ours, theirs, right in zip(found, expected, exact, strict=True):
        assert (ours - right).norm() <= 1.2 * (theirs - right).norm() + 1e-6 * right.norm()


def test_bf16_weights_get_bf16_gradients() -> None:
    hidden, weight, targets, _ = case(torch.bfloat16)
    total, grad_hidden, grad_weight = with_gradients(chunked_loss, hidden, weight, targets, None, 7)
    assert (total.dtype, grad_hidden.dtype, grad_weight.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)


def test_a_sure_mistake_is_no_infinity() -> None:
    """A probability below the smallest float has a loss all the same."""
    hidden, weight = torch.tensor([[300.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    total = chunked_loss(hidden, weight, torch.tensor([1]), None, 1)
    assert float(total.detach()) == 600


class Watch(TorchDispatchMode):
    """The elements of the largest tensor that any operation gave, and the number of products of matrices."""

    largest = products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        self.products += func.__name__.startswith(("mm", "addmm"))
        return out


def test_many_logits_are_never_there_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "HELD_LOGITS", 5 * VOCABULARY + 3)
    hidden, weight, targets, weights = case()
    with Watch() as watch:
        total, count = head_loss(hidden, weight, targets, weights)
        total.backward()
    assert watch.largest == weight.numel() > 5 * VOCABULARY
    torch.testing.assert_close(total, naive(hidden, weight, targets, weights))
    assert count == weights.sum()


def test_few_logits_are_read_at_once_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "HELD_LOGITS", PLACES * VOCABULARY)
    hidden, weight, targets, weights = case()
    expected = with_gradients(naive, hidden, weight, targets, weights)
    found = with_gradients(lambda *given: head_loss(*given)[0], hidden, weight, targets, weights)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_evaluation_makes_no_gradients() -> None:
    hidden, weight, targets, _ = case()
    with torch.no_grad(), Watch() as watch:
        total = chunked_loss(hidden, weight, targets, None, 1)
    assert not total.requires_grad
    assert watch.products == PLACES
