"""Products with Int4 matrices at the memory's speed, for inference: on the CPU by onnxruntime where it is installed
(`qvl[int4]`), else by torch's own kernels.

Torch's take x in bfloat16 and know (q - 8) * scale + zero, with scales in bfloat16; GPTQ's (q - z) * scale is that with
zero = (8 - z) * scale.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qvl.quantize.gptq import BITS, GPTQLinear, by_group

try:
    from qvl.quantize import onnx_linear
except ImportError:
    onnx_linear = None  # type: ignore[assignment]

GROUP_SIZES = (32, 64, 128, 256)  # that the kernels know
MIDDLE = 8
CPU_ROWS, CPU_BLOCK = 16, 64  # rows of the matrix: a multiple of the first, laid out in blocks of the second
CUDA_TILES, CUDA_COLUMNS = 8, 128  # inner tiles, and what the number of columns is a multiple of then
UNPACK_FROM = 96  # rows of x from which unpacking the matrix pays, on the CPU
UNPACKED_BLOCKS = 8  # blocks unpacked at once: they stay in the caches


def kernel_for(layer: GPTQLinear) -> str | None:
    """The name of the kernel that takes a layer where it lies; None: there is none."""
    device = layer.qweight.device
    if layer.group_size not in GROUP_SIZES:
        return None
    if device.type == "cpu" and onnx_linear is not None and onnx_linear.fits(layer):
        return onnx_linear.NAME
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "DEFAULT":  # scalar loops
        return "torch int4pack for the CPU"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0) and layer.out_features % 8 == 0:
        return "torch tinygemm"
    return None


def fast_linear(layer: GPTQLinear) -> nn.Module:
    """The layer for the kernel that `kernel_for` names."""
    if onnx_linear is not None and kernel_for(layer) == onnx_linear.NAME:
        return onnx_linear.OnnxLinear(layer)
    return Int4Linear(layer)


class Int4Linear(nn.Module):
    """A GPTQLinear for inference by torch's kernels. x of any type; computes in bfloat16."""

    def __init__(self, layer: GPTQLinear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group_size = layer.in_features, layer.out_features, layer.group_size
        self.bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)
        on_cuda = layer.qweight.device.type == "cuda"
        values, scales, zeros, self.order = by_group(layer)
        columns = max(self.group_size, CUDA_COLUMNS) if on_cuda else self.group_size
        padding = (0, -values.shape[1] % columns, 0, 0 if on_cuda else -values.shape[0] % CPU_ROWS)
        values = F.pad(values, padding, value=MIDDLE)
        groups = values.shape[1] // self.group_size
        scales, zeros = (
            F.pad(t, (0, len(values) - t.shape[1], 0, groups - len(t))) for t in (scales, (MIDDLE - zeros) * scales)
        )
        self.columns = values.shape[1]
        self.scales_and_zeros = torch.stack((scales, zeros), -1).to(torch.bfloat16).contiguous()  # (groups, out, 2)
        if on_cuda:
            pairs = (values[:, ::2] << BITS | values[:, 1::2]).to(torch.uint8)
            self.packed = torch.ops.aten._convert_weight_to_int4pack(pairs, CUDA_TILES)
        else:
            self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        rows = x.reshape(-1, self.in_features).to(torch.bfloat16)
        if self.order is not None:
            rows = rows[:, self.order]
        rows = F.pad(rows, (0, self.columns - self.in_features))
        product = self._product(rows)[:, : self.out_features]
        if self.bias is not None:
            product = product + self.bias
        return product.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def _product(self, x: Tensor) -> Tensor:
        if x.device.type == "cuda":
            return torch.ops.aten._weight_int4pack_mm(x, self.packed, self.group_size, self.scales_and_zeros)
        if len(x) >= UNPACK_FROM and len(self.packed) % CPU_BLOCK == 0 and _layout_is_known():
            return _by_blocks(x, self.packed, self.scales_and_zeros, self.group_size)
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, self.group_size, self.scales_and_zeros)


def _by_blocks(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int) -> Tensor:
    """x (M, in) times the CPU's layout of a matrix (out, in / 2), which is unpacked some blocks of rows at a time.

    A block holds for each column 32 bytes: row j in the lower half of byte j, row 32 + j in its upper half.
    """
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    blocks, groups, half = rows // CPU_BLOCK, columns // group_size, CPU_BLOCK // 2
    stored = packed.view(blocks, columns, half)
    # The table gives both halves of a byte at once, so that rows come as 0, 32, 1, 33, ...: scales do too.
    scaling = (
        scales_and_zeros.view(groups, blocks, 2, half, 2).permute(4, 1, 0, 3, 2).flatten(3)
    )  # (2, blocks, groups, 64)
    product = x.new_empty(len(x), blocks, 2, half)
    memory = x.new_empty(columns * UNPACKED_BLOCKS * CPU_BLOCK)
    for start in range(0, blocks, UNPACKED_BLOCKS):
        part = stored[start : start + UNPACKED_BLOCKS]
        count = len(part)
        values = _pairs().index_select(0, part.reshape(-1).int()).view(torch.bfloat16)
        scales, zeros = scaling[:, start : start + count, :, None]  # (blocks, groups, 1, 64)
        matrix = memory[: columns * count * CPU_BLOCK].view(columns, count * CPU_BLOCK)
        ordered = matrix.view(groups, group_size, count, CPU_BLOCK).permute(2, 0, 1, 3)
        torch.addcmul(zeros, values.view(count, groups, group_size, CPU_BLOCK), scales, out=ordered)
        product[:, start : start + count] = (x @ matrix).view(len(x), count, half, 2).transpose(2, 3)
    return product.view(len(x), rows)


@cache
def _pairs() -> Tensor:
    """Each byte's two values less 8 as two bfloat16, in one int32: (256,)."""
    with torch.inference_mode(False):
        every = torch.arange(2**8)
        pairs = torch.stack((every & 2**BITS - 1, every >> BITS), -1)
        return (pairs - MIDDLE).to(torch.bfloat16).view(torch.int32).flatten()


@cache
def _layout_is_known() -> bool:
    """Whether this CPU's kernel lays matrices out as `_by_blocks` reads them (with AVX512 it does)."""
    values = torch.arange(CPU_BLOCK * CPU_BLOCK).mul(7).add(3).view(CPU_BLOCK, CPU_BLOCK) % 16
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
    stored = packed.view(CPU_BLOCK, CPU_BLOCK // 2).int()
    return torch.equal(torch.cat((stored & 15, stored >> BITS), -1).t(), values.int())
