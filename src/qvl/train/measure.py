"""Micro-batches -> gradients: what a step adds up before the optimizer moves."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qvl.data.loader import Batch, State
from qvl.images import normalize
from qvl.model.loss import supervised_places
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.train.dense import DenseHead
from qvl.train.flops import StepWork, step_operations
from qvl.train.parallel import delay_reduction
from qvl.train.ranks import Ranks
from qvl.train.recipe import Recipe

Loss = tuple[Tensor, Tensor | float]  # summed over what is supervised, and its weight
Measure = Callable[[Any], Loss]


@dataclass
class Seen:
    """What a step saw. The numbers are of all ranks, the rest of this one."""

    loss_sum: float = 0.0
    weight: float = 0.0
    samples: int = 0
    images: int = 0
    tokens: int = 0  # real ones
    operations: float = 0.0  # of the model, in floating point
    waited_s: float = 0.0  # for data, the mean of the ranks
    micro_batches: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)  # loss, sample ids
    loader_state: State = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean over what is supervised."""
        return self.loss_sum / (self.weight or 1.0)


def accumulate(
    batches: Iterator[tuple[Any, State]],
    measure: Measure,
    recipe: Recipe,
    model: QwenVL,
    ranks: Ranks,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Seen:
    """Gradients of the summed loss over this rank's micro-batches of one step, and what all ranks saw."""
    seen = Seen()
    count = recipe.batches_per_step // ranks.data_size
    for number in range(count):
        start = time.perf_counter()
        batch, seen.loader_state = next(batches)
        seen.waited_s += time.perf_counter() - start
        delay_reduction(model, recipe.parallel, last=number + 1 == count)
        loss_sum, weight = measure(batch)
        backward(loss_sum)
        seen.loss_sum += float(loss_sum.detach())
        seen.weight += float(weight)
        if isinstance(batch, Batch):
            seen.micro_batches.append((float(loss_sum.detach()), batch.sample_ids))
            seen.samples += len(batch.sample_ids)
            seen.images += len(batch.pixels)
            seen.tokens += batch.num_tokens
            supervised = int((batch.labels != IGNORE_INDEX).sum())
            work = StepWork(len(batch.pixels), batch.document_lengths, supervised)
        else:
            seen.samples += len(batch[0])
            seen.images += len(batch[0])
            seen.tokens += batch[1][..., 0].numel()
            work = StepWork(len(batch[0]), (), 0)
        seen.operations += step_operations(model.config, recipe.trains, work).total
    _add_up(seen, ranks)
    return seen


def _add_up(seen: Seen, ranks: Ranks) -> None:
    values = [seen.loss_sum, seen.weight, seen.operations, seen.waited_s / ranks.data_size]
    values += [seen.samples, seen.images, seen.tokens]
    summed = ranks.add(torch.tensor(values, dtype=torch.float64)).tolist()
    seen.loss_sum, seen.weight, seen.operations, seen.waited_s, *counts = summed
    seen.samples, seen.images, seen.tokens = map(int, counts)


def supervised_weight(batch: Batch) -> float:
    """The weight that the measure will give the batch."""
    places = supervised_places(batch.labels)[:, :-1]
    return float(places.sum() if batch.loss_weights is None else batch.loss_weights[:, 1:][places].sum())


def token_measure(model: QwenVL, recipe: Recipe, device: str) -> Measure:
    """Next-token cross-entropy of a batch; packed documents don't see each other."""

    def measure(batch: Batch) -> Loss:
        pixels = normalize(batch.pixels.to(device, non_blocking=True))
        weights = None if batch.loss_weights is None else batch.loss_weights.to(device)
        ids, labels = batch.input_ids.to(device), batch.labels.to(device)
        # Fused attention takes 1.7 to 1.9 times as long with a mask, on the CPU in rows of 2,048.
        documents = batch.document_ids.to(device) if batch.isolates else None
        with fast_kernels(device, recipe.precision):
            return model.loss(ids, labels, pixel_values=pixels, document_ids=documents, loss_weights=weights)

    return measure


def dense_measure(model: QwenVL, head: DenseHead, recipe: Recipe, device: str) -> Measure:
    """The vision warm-up's loss: what lies under each patch."""

    def measure(batch: tuple[Tensor, Tensor]) -> Loss:
        pixels, labels = normalize(batch[0].to(device)), batch[1].to(device)
        with fast_kernels(device, recipe.precision):
            features = model.vision(pixels)  # (N, P, width)
            # Detached: the adapter's reading must not bend the ViT (letters named: 65%, else 45%).
            loss = head.loss(features, model.adapter(features.detach()), labels)
        return loss * len(pixels), len(pixels)

    return measure
