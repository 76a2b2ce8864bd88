"""The one loss: next-token cross-entropy over the supervised tokens. Source: paper section 3; finetune.py."""

import torch
import torch.nn.functional as F
from torch import Tensor

from qvl.text.special_tokens import IGNORE_INDEX


def supervised_places(labels: Tensor) -> Tensor:
    """labels (B, T), aligned with input_ids -> (B, T) bool: places whose next token carries loss."""
    places = torch.zeros_like(labels, dtype=torch.bool)
    places[:, :-1] = labels[:, 1:] != IGNORE_INDEX
    return places


def next_token_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """logits (M, V) and targets (M,) of the supervised places -> summed weighted loss, summed weight."""
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    if weights is None:
        return losses.sum(), torch.tensor(float(len(targets)))
    return (losses * weights).sum(), weights.sum()
