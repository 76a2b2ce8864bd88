"""Float32 products that read their matrix in 16 bits, for inference: half the memory, half to read, nothing lost.

Published weights are bf16: 8 significant bits, where a float16 holds 11. FBGEMM, which torch for x86 is built with,
keeps such a matrix in float16, widens it in registers and multiplies in float32. A product of one row takes half the
time of one that reads float32, and none takes longer.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

GREATEST = 16  # scaled weights stay below 2 ** 16, where float16 ends
FURTHEST = 40  # the greatest weight is from 2 ** -40 to 2 ** 40: scaled by its inverse, x does not vanish
LOW_BITS = 0x1FFF  # of a float32: those that a float16 has no room for
CHECKED = 2**20  # weights at once: they stay in the caches
PART = 2**23  # weights of a part: laid out twice as fast as a large matrix whole, multiplied as fast


class NarrowLinear(nn.Module):
    """An nn.Linear on the CPU whose weights `fits` takes. x of any type; what comes out is of x's.

    The matrix is scaled by a power of two, so that its greatest weight is just within float16, and x by its inverse:
    both exact. A bf16 weight less than 2 ** -32 of the greatest is off by up to 2 ** -40 of that: far less than what
    float32 rounds a sum by.
    """

    kernel = "matrices in 16 bits, multiplied in float32"

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        weight = layer.weight.detach()
        self.scale = math.ldexp(1.0, math.frexp(_greatest(weight))[1] - GREATEST)
        rows = min(max(1, PART // self.in_features), self.out_features)
        threads = torch.get_num_threads() if rows < self.out_features else 1
        # One piece of memory, that goes back: what each part would take for itself would stay between the parts.
        scaled = torch.empty(threads * rows, self.in_features)
        self.parts: list[torch.ScriptObject] = []
        with ThreadPoolExecutor(threads) as pool:
            in_turn = pool.map if threads > 1 else map
            for some in weight.split(len(scaled)):
                ready = scaled[: len(some)].copy_(some).mul_(1 / self.scale)
                self.parts += in_turn(torch.ops.quantized.linear_prepack_fp16, ready.split(rows))

    @property
    def weight(self) -> Tensor:
        """(out, in) float32, made again."""
        parts = [torch.ops.quantized.linear_unpack_fp16(part)[0] for part in self.parts]
        return torch.cat(parts).float() * self.scale

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        scaled = x.float() * self.scale
        products = [torch.ops.quantized.linear_dynamic_fp16(scaled, part) for part in self.parts]
        product = products[0] if len(products) == 1 else torch.cat(products, -1)
        if self.bias is not None:
            product += self.bias
        return product.to(x.dtype)


def fits(weight: Tensor) -> bool:
    """Whether float16 has room for the significant bits of all weights, as where they come from bf16, and torch is
    built with the kernel."""
    if torch.backends.quantized.engine not in ("x86", "fbgemm"):
        return False
    greatest = _greatest(weight)
    if not math.isfinite(greatest) or abs(math.frexp(greatest)[1]) > FURTHEST:
        return False
    if weight.dtype != torch.float32:
        return weight.dtype in (torch.bfloat16, torch.float16)
    bits = weight.detach().contiguous().view(torch.int32).flatten()
    return not any(bool((part & LOW_BITS).any()) for part in bits.split(CHECKED))


def _greatest(weight: Tensor) -> float:
    """Of the weights' sizes; NaN where one is."""
    return max(abs(float(end)) for end in weight.detach().aminmax())
