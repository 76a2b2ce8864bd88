"""The arithmetic that suits the hardware."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def fast_kernels(device: str, precision: str = "bf16") -> Iterator[None]:
    """With "bf16": autocast on a GPU and on CPUs that multiply bf16 in hardware (AVX512-BF16, AMX), else float32.

    On the CPU attention goes as plain products: with rows of at most a few hundred tokens, as in training and
    answering here, they take two thirds of the time of the fused kernel.
    """
    kind = device.split(":")[0]
    if kind != "cpu":
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
        return
    hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    bf16 = hardware and precision == "bf16"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16), sdpa_kernel(SDPBackend.MATH):
        yield
