"""The arithmetic that suits the hardware."""

from contextlib import AbstractContextManager

import torch


def fast_kernels(device: str, precision: str = "bf16") -> AbstractContextManager[None]:
    """With "bf16": autocast on a GPU and on CPUs that multiply bf16 in hardware (AVX512-BF16, AMX), else float32."""
    kind = device.split(":")[0]
    hardware = kind != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=hardware and precision == "bf16")
