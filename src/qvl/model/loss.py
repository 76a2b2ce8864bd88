"""The one loss: next-token cross-entropy over the supervised tokens. Source: paper section 3; finetune.py."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from qvl.text.special_tokens import IGNORE_INDEX

HELD_LOGITS = 2**27  # so many logits are held at once: 512 MiB in float32
ADDED_ROWS = 8192  # of the weight's gradient at once


def supervised_places(labels: Tensor) -> Tensor:
    """labels (B, T), aligned with input_ids -> (B, T) bool: places whose next token carries loss."""
    places = torch.zeros_like(labels, dtype=torch.bool)
    places[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return places


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Next-token loss of the head's logits: hidden (M, D) of the supervised places and the head's weight (V, D),
    targets (M,), weights (M,) of the tokens -> summed weighted loss, summed weight.

    More than HELD_LOGITS logits are made, read and turned into gradients in chunks; the result is the same.
    """
    if len(hidden) * len(weight) <= HELD_LOGITS:
        return next_token_loss(F.linear(hidden, weight), targets, weights)
    total = chunked_loss(hidden, weight, targets, weights, max(1, HELD_LOGITS // len(weight)))
    return total, torch.tensor(float(len(targets))) if weights is None else weights.sum()


def next_token_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """logits (M, V) and targets (M,) of the supervised places -> summed weighted loss, summed weight."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    if weights is None:
        return losses.sum(), torch.tensor(float(len(targets)))
    return (losses * weights).sum(), weights.sum()


def chunked_loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None, rows: int) -> Tensor:
    """The summed loss of head_loss; the logits of `rows` places are held at once.

    Gradients are made in the forward pass, while a chunk's logits are there, in about twice the time and with
    memory for one gradient of hidden and weight; a weight that needs none costs none.
    """
    if not torch.is_grad_enabled():  # a Function is not told so
        hidden, weight = hidden.detach(), weight.detach()
    total: Tensor = _ChunkedLoss.apply(hidden, weight, targets, weights, rows)
    return total


class _ChunkedLoss(torch.autograd.Function):
    """Products in the autocast type where autocast is on; softmax, loss and sums of gradients in float32 or wider."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None, rows: int) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)
        factor = weight.to(dtype)  # (V, D)
        # Held for all chunks: new memory for each would take as long as the softmax.
        logits = factor.new_empty(min(rows, len(hidden)), len(weight))
        scores = logits if dtype == wide else torch.empty_like(logits, dtype=wide)
        losses = torch.empty_like(targets, dtype=wide)
        grad_hidden = torch.empty_like(hidden, dtype=dtype) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), rows):
            here = slice(start, start + rows)
            part, picked = hidden[here].to(dtype), targets[here, None]
            low, full = logits[: len(part)], scores[: len(part)]
            torch.mm(part, factor.t(), out=low)
            if full is not low:
                full.copy_(low)
            torch.log_softmax(full, 1, out=full)
            losses[here] = -full.gather(1, picked).squeeze(1)
            if grad_hidden is None and grad_weight is None:
                continue
            full.exp_().scatter_add_(1, picked, full.new_full((len(part), 1), -1.0))
            if weights is not None:
                full.mul_(weights[here, None])
            if full is not low:
                low.copy_(full)  # now the gradient of the logits
            if grad_hidden is not None:
                torch.mm(low, factor, out=grad_hidden[here])
            if grad_weight is not None:  # in pieces that stay in the cache
                for total, columns in zip(grad_weight.split(ADDED_ROWS), low.t().split(ADDED_ROWS), strict=True):
                    total.add_(columns @ part)
        ctx.save_for_backward(
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
        )
        return losses.sum() if weights is None else (losses * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * scale.to(grad.dtype) for grad in ctx.saved_tensors)
        return *grads, None, None, None
