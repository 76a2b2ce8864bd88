"""The arithmetic that suits the hardware."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

PLAIN_TOKENS = 256  # rows up to this length


@contextmanager
def fast_kernels(device: str, precision: str = "bf16", tokens: int = 0) -> Iterator[None]:
    """With "bf16": autocast on a GPU and on CPUs that multiply bf16 in hardware (AVX512-BF16, AMX), else float32.

    On the CPU attention goes as plain products in rows of few `tokens`, as the tiny recipe's, where they take two
    thirds of the time of the fused kernel. In rows of 1,024 and 2,048 the kernel takes a third to two thirds of theirs.
    """
    kind = device.split(":")[0]
    if kind != "cpu":
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
        return
    hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    bf16 = hardware and precision == "bf16"
    attention = sdpa_kernel(SDPBackend.MATH) if tokens <= PLAIN_TOKENS else nullcontext()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16), attention:
        yield
