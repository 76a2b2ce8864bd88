"""Int4 values chosen so that what the layers say changes least on samples. Source: GPTQ, arXiv 2210.17323, algorithm 1.

As in the published Int4 checkpoint the matrices of the language model's blocks alone, in groups of 128 columns; each
block is calibrated with what the blocks before it, already quantised, give it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qvl.errors import UsageError
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.gptq import GROUP_SIZE, GPTQLinear, dequantize, quantize, ranges, rounded, stored

DAMPING = 0.01  # of the mean of the diagonal
IN_TURN = (("c_attn",), ("attn_c_proj",), ("w1", "w2"), ("mlp_c_proj",))  # what a block's matrices wait for


@dataclass(frozen=True)
class CalibrationSample:
    """input_ids (1, T), and pixel_values (N, 3, S, S) of its pictures or None."""

    input_ids: Tensor
    pixel_values: Tensor | None


@dataclass(frozen=True)
class LayerError:
    """How far a matrix's products are from the whole one's on the samples, relative to them; rounded: of rounding."""

    name: str
    error: float
    rounded: float


@torch.no_grad()
def calibrate(
    model: QwenVL,
    samples: Iterable[CalibrationSample],
    each: Callable[[LayerError], None] = lambda _: None,
    damping: float = DAMPING,
) -> None:
    """Quantise in place. each: told of every matrix. UsageError without samples; ValueError as of `stored`."""
    inputs = _inputs_of_blocks(model, samples)
    if not inputs:
        raise UsageError("no samples to calibrate with")
    for number, block in enumerate(model.language.blocks):
        for names in IN_TURN:
            hessian = _hessian(block, names[0], inputs)
            for name in names:
                layer = block.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                state, error = quantize_with(layer.weight.detach(), hessian, damping)
                block.set_submodule(name, GPTQLinear.from_linear(layer, GROUP_SIZE, state))
                each(replace(error, name=f"language.blocks.{number}.{name}"))
        inputs = [(block(x, *rest), rest) for x, rest in inputs]


def quantize_with(
    weight: Tensor, hessian: Tensor, damping: float = DAMPING, group_size: int = GROUP_SIZE
) -> tuple[dict[str, Tensor], LayerError]:
    """A matrix (out, in) and the sum of x x^T of what it meets, (in, in) -> its tensors in GPTQ's layout.

    Column after column is rounded, and the columns that are still whole take up what that costs.
    """
    matrix, met = weight.float().clone(), hessian.float()
    hessian = met.clone()
    never = hessian.diagonal() == 0  # a column that meets nothing but zeros
    hessian[never, never] = 1
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    columns = torch.arange(matrix.shape[1], device=matrix.device) // group_size
    values, scales, zeros = torch.empty_like(matrix), [], []
    for start in range(0, matrix.shape[1], group_size):
        part = matrix[:, start : start + group_size]  # a view: what is left to be rounded of it changes
        stop = start + part.shape[1]
        scale, zero = ranges(part)
        errors = torch.empty_like(part)
        for i in range(part.shape[1]):
            own = inverse[start + i, start:stop]
            values[:, start + i] = rounded(part[:, i], scale, zero)
            errors[:, i] = (part[:, i] - (values[:, start + i] - zero) * scale) / own[i]
            part[:, i:] -= errors[:, i, None] * own[i:]
        matrix[:, stop:] -= errors @ inverse[start:stop, stop:]
        scales.append(scale)
        zeros.append(zero)
    scale, zero = torch.stack(scales, 1), torch.stack(zeros, 1)
    state = stored(values, scale, zero, columns)
    error, nearest = (_error(weight.float(), one, met) for one in (state, quantize(weight, group_size)))
    return state, LayerError("", error, nearest)


def _error(weight: Tensor, state: dict[str, Tensor], hessian: Tensor) -> float:
    """Of the products on the samples, relative to the whole matrix's."""
    off = dequantize(tuple(state.values()), torch.float32) - weight
    lost, whole = (float(((one @ hessian) * one).sum()) for one in (off, weight))
    return math.sqrt(max(lost, 0.0) / whole) if whole > 0 else 0.0


class _Caught(Exception):  # noqa: N818 - no error
    pass


@torch.no_grad()
def _inputs_of_blocks(model: QwenVL, samples: Iterable[CalibrationSample]) -> list[tuple[Tensor, tuple[Any, ...]]]:
    """Of each sample what the first block is called with."""
    caught: list[tuple[Tensor, tuple[Any, ...]]] = []

    def catch(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        caught.append((arguments[0], arguments[1:]))
        raise _Caught

    handle = model.language.blocks[0].register_forward_pre_hook(catch)
    try:
        for sample in samples:
            try:
                model.hidden_states(sample.input_ids, sample.pixel_values)
            except _Caught:
                continue
    finally:
        handle.remove()
    return caught


@torch.no_grad()
def _hessian(block: nn.Module, name: str, inputs: list[tuple[Tensor, tuple[Any, ...]]]) -> Tensor:
    """The sum of x x^T over all tokens that a layer of the block meets."""
    layer = block.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    total = torch.zeros(layer.in_features, layer.in_features, device=inputs[0][0].device)

    def add(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        rows = arguments[0].flatten(0, -2).float()
        total.addmm_(rows.t(), rows)

    handle = layer.register_forward_pre_hook(add)
    try:
        for x, rest in inputs:
            block(x, *rest)
    finally:
        handle.remove()
    return total
