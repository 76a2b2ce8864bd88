"""The one loss: next-token cross-entropy over the supervised tokens. Source: paper section 3; finetune.py."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qvl.text.special_tokens import IGNORE_INDEX

HELD_LOGITS = 2**27  # numbers; more than these are never in memory at once: half a GB as float32


def supervised_places(labels: Tensor) -> Tensor:
    """labels (B, T), aligned with input_ids -> (B, T) bool: places whose next token carries loss."""
    places = torch.zeros_like(labels, dtype=torch.bool)
    places[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return places


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """hidden (M, D) of the supervised places, the head's weight (V, D), targets (M,) and their weights (M,), or all 1
    -> summed weighted loss, summed weight.

    Few logits are simply made. Many, as with 151,936 classes, come and go in chunks that leave their gradients behind:
    time as before, memory of one chunk.
    """
    total = torch.tensor(float(len(targets))) if weights is None else weights.sum()
    if len(targets) * len(weight) > HELD_LOGITS:
        each = torch.ones_like(targets, dtype=torch.float32) if weights is None else weights.float()
        return _ChunkedLoss.apply(hidden, weight, targets, each, HELD_LOGITS // len(weight)), total
    losses = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    return (losses.sum() if weights is None else (losses * weights).sum()), total


class _ChunkedLoss(torch.autograd.Function):
    """The loss and, at once, its gradients by hidden and weight: the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, rows: int) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        factor = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        loss = torch.zeros((), device=hidden.device, dtype=torch.float32)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                states = hidden[part].to(dtype)
                logits = (states @ factor.T).float()  # (rows, V)
                normalizer = logits.logsumexp(-1, keepdim=True)
                picked = logits.gather(1, targets[part, None])
                loss += ((normalizer - picked)[:, 0] * weights[part]).sum()
                if not (wants_hidden or wants_weight):
                    continue
                # In place, to the gradient by the logits: softmax less one at the target.
                slope = logits.sub_(normalizer).exp_()
                slope.scatter_add_(1, targets[part, None], slope.new_full((len(slope), 1), -1.0))
                slope = slope.mul_(weights[part, None]).to(dtype)
                if grad_hidden is not None:
                    grad_hidden[part] = slope @ factor
                if grad_weight is not None:
                    grad_weight += slope.T @ states
        ctx.save_for_backward(grad_hidden, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (scale,) = grads
        by_hidden = None if grad_hidden is None else grad_hidden * scale
        by_weight = None if grad_weight is None else grad_weight.mul_(scale)
        return by_hidden, by_weight, None, None, None
