"""The arithmetic that suits the hardware."""

from contextlib import AbstractContextManager

import torch


def multiplies_bf16(kind: str) -> bool:
    """Whether such a device ("cpu", "cuda") multiplies bf16 in hardware.

    On a CPU without (AVX2) a product of 512 x 512 took 218 ms, 3 in float32.
    """
    return kind != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def fast_kernels(device: str, precision: str = "bf16") -> AbstractContextManager[None]:
    """With "bf16": autocast on a GPU and on CPUs that multiply bf16 in hardware (AVX512-BF16, AMX), else float32."""
    kind = device.split(":")[0]
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=multiplies_bf16(kind) and precision == "bf16")
