"""The loss, by hand."""

import math

import pytest
import torch

from qvl.model.loss import head_loss, supervised_places
from qvl.text.special_tokens import IGNORE_INDEX


def test_worked_example_of_the_docs() -> None:
    """The loss looks only at the true token's probability, whatever the model would have said."""
    probabilities = [0.65, 0.70, 0.25, 0.80, 0.75]  # of the true token, which is token 0
    logits = torch.tensor([[math.log(p), math.log(1 - p)] for p in probabilities])
    losses = [float(head_loss(row[None], torch.eye(len(row)), torch.tensor([0]))[0]) for row in logits]
    assert [round(loss, 2) for loss in losses] == [0.43, 0.36, 1.39, 0.22, 0.29]
    total, count = head_loss(logits, torch.eye(logits.shape[1]), torch.zeros(5, dtype=torch.long))
    assert float(total / count) == pytest.approx(0.54, abs=0.005)


def test_labels_are_shifted_inside() -> None:
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 7, 8, IGNORE_INDEX]])
    assert supervised_places(labels).tolist() == [[False, True, True, False, False]]
