"""The fast Int4 products against the matrix that they stand for."""

import pytest
import torch
from torch import Tensor, nn

from qvl.quantize import kernels, onnx_linear
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.kernels import Int4Linear, fast_linear, kernel_for
from qvl.quantize.onnx_linear import OnnxLinear


def layer(out_features: int, in_features: int, bias: bool = True, ordered: bool = True) -> GPTQLinear:
    torch.manual_seed(out_features)
    made = GPTQLinear.from_linear(nn.Linear(in_features, out_features, bias))
    if not ordered:
        made.g_idx = made.g_idx[torch.randperm(in_features)]
    return made


def expected(gptq: GPTQLinear, x: Tensor) -> Tensor:
    exact = x.to(torch.bfloat16).double() @ gptq.matrix(torch.float32).double().t()
    return exact if gptq.bias is None else exact + gptq.bias.detach().double()


@pytest.mark.parametrize("rows", [1, 5, 130])
@pytest.mark.parametrize(
    "shape",
    [(192, 256), (64, 704), (8, 128), (40, 64), (768, 256)],
    ids=["plain", "short group", "8", "padded", "wide"],
)
def test_products_are_the_matrixs(shape: tuple[int, int], rows: int) -> None:
    """Rounding scales and the result to bfloat16 moves each by 2 ** -9 of it."""
    gptq = layer(*shape)
    x = torch.randn(rows, shape[1])
    with torch.inference_mode():
        found = Int4Linear(gptq)(x)
    wanted = expected(gptq, x)
    assert found.dtype == torch.float32
    assert float((found - wanted).abs().max()) < 0.01 * float(wanted.abs().max())


@pytest.mark.parametrize("rows", [1, 5, 130])
@pytest.mark.parametrize(
    "shape", [(192, 256), (64, 704), (8, 128), (40, 64)], ids=["plain", "short group", "8", "padded"]
)
def test_products_of_onnxruntime_are_the_matrixs(shape: tuple[int, int], rows: int) -> None:
    """Rounding x to int8 within each group moves it by 2 ** -8 of its largest value."""
    for ordered in (True, False):
        gptq = layer(*shape, ordered=ordered)
        x = torch.randn(rows, 1, shape[1]).to(torch.bfloat16)
        found = OnnxLinear(gptq)(x)
        wanted = expected(gptq, x)
        assert found.shape == (rows, 1, shape[0])
        assert found.dtype == torch.bfloat16
        assert float((found - wanted).norm() / wanted.norm()) < 0.01


def test_zero_points_of_16_go_to_torchs_kernel() -> None:
    gptq = layer(64, 128, bias=False)
    gptq.qzeros.fill_(-1)  # all of them 15, which stands for 16
    assert kernel_for(gptq) == "torch int4pack for the CPU"
    assert isinstance(fast_linear(gptq), Int4Linear)
    assert isinstance(fast_linear(layer(64, 128)), OnnxLinear)


def test_columns_in_another_order() -> None:
    gptq = layer(64, 256, bias=False, ordered=False)
    x = torch.randn(2, 3, 256)
    with torch.inference_mode():
        found = Int4Linear(gptq)(x)
    assert found.shape == (2, 3, 64)
    assert float((found - expected(gptq, x)).abs().max()) < 0.02


def test_unpacked_blocks_give_what_the_kernel_gives() -> None:
    """Many rows take another way where the kernel's layout is the known one, which is AVX-512's."""
    fast = Int4Linear(layer(64 * 19, 384, bias=False))
    x = torch.randn(128, 384).to(torch.bfloat16)
    avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    assert kernels._layout_is_known() == avx512
    if not avx512:
        return
    with torch.inference_mode():
        one = kernels._by_blocks(x, fast.packed, fast.scales_and_zeros, 128)
        other = torch.ops.aten._weight_int4pack_mm_for_cpu(x, fast.packed, 128, fast.scales_and_zeros)
    assert float((one - other).float().abs().max()) < 0.02


def test_group_sizes_that_no_kernel_knows() -> None:
    assert kernel_for(GPTQLinear.from_linear(nn.Linear(96, 64), group_size=48)) is None
    assert kernel_for(layer(64, 128)) == onnx_linear.NAME
