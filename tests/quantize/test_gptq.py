"""Int4 matrices: the published layout value by value, rounding, and a layer that trains what lies before it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.quantize.gptq import GPTQLinear, dequantize, pack, quantize, unpack


def matrix(out_features: int, in_features: int, seed: int = 0) -> Tensor:
    return torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(seed))


def one_by_one(stored: dict[str, Tensor]) -> Tensor:
    """The matrix (out, in) as the format's description has it, a number at a time."""
    rows, columns = stored["qweight"].shape[0] * 8, stored["qweight"].shape[1]
    weight = torch.empty(columns, rows)
    for i in range(rows):
        group = int(stored["g_idx"][i])
        for o in range(columns):
            value = int(stored["qweight"][i // 8, o]) >> 4 * (i % 8) & 15
            zero = (int(stored["qzeros"][group, o // 8]) >> 4 * (o % 8) & 15) + 1
            weight[o, i] = float(stored["scales"][group, o]) * (value - zero)
    return weight


def test_packing_is_lowest_first_and_keeps_the_sign_bit() -> None:
    values = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]])
    packed = pack(values)
    assert packed.dtype == torch.int32
    assert packed.tolist() == [[0xF7654321 - 2**32]]
    assert unpack(packed).tolist() == values.tolist()
    every = torch.arange(16).repeat(3, 4)
    assert torch.equal(unpack(pack(every)), every.int())


@pytest.mark.parametrize("in_features", [256, 136, 64], ids=["whole groups", "a short one", "one short one"])
def test_layout_is_the_published_one(in_features: int) -> None:
    stored = quantize(matrix(16, in_features))
    groups = -(-in_features // 128)
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
        "qweight": (in_features // 8, 16),
        "qzeros": (groups, 2),
        "scales": (groups, 16),
        "g_idx": (in_features,),
    }
    assert torch.equal(dequantize(tuple(stored.values()), torch.float32), one_by_one(stored))


def test_columns_may_be_in_any_order() -> None:
    """GPTQ with desc_act: g_idx is a permutation of the groups."""
    stored = quantize(matrix(8, 256))
    stored["g_idx"] = stored["g_idx"][torch.randperm(256, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(dequantize(tuple(stored.values()), torch.float32), one_by_one(stored))


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0], ids=["around zero", "positive", "negative"])
def test_each_value_is_rounded_to_the_nearest(shift: float) -> None:
    weight = matrix(16, 200) + shift
    stored = quantize(weight)
    scales = stored["scales"].float()[stored["g_idx"].long()].t()
    error = (dequantize(tuple(stored.values()), torch.float32) - weight).abs()
    # Half a step inside; a zero point that is rounded, and one that can't be 0, shift the ends by up to one.
    assert bool((error <= 1.05 * scales).all())
    assert float((error <= 0.501 * scales).float().mean()) > 0.97
    twice = quantize(dequantize(tuple(stored.values()), torch.float32))
    assert float((dequantize(tuple(twice.values()), torch.float32) - weight).abs().max()) <= float(scales.max()) * 1.6


def test_a_matrix_that_can_not_be_packed() -> None:
    with pytest.raises(ValueError, match="12 x 64: both must be multiples of 8"):
        quantize(matrix(12, 64))


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_is_its_matrix_and_passes_gradients_on(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(136, 16, bias=bias)
    layer = GPTQLinear.from_linear(linear)
    x = matrix(3, 136, seed=2).requires_grad_()
    weight = layer.matrix(torch.float32)
    layer(x).square().sum().backward()
    found = x.grad
    assert found is not None
    y = x.detach().clone().requires_grad_()
    expected = F.linear(y, weight, linear.bias)
    expected.square().sum().backward()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(found, y.grad)
    assert {p.numel() for p in layer.parameters()} == ({16} if bias else set())


def test_autocast_takes_its_type() -> None:
    layer = GPTQLinear.from_linear(nn.Linear(64, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(matrix(2, 64)).dtype == torch.bfloat16
