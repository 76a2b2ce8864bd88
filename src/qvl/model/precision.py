"""bf16 where the hardware is made for it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: str) -> AbstractContextManager[Any]:
    """bf16 autocast on a GPU and on CPUs that multiply bf16 in hardware (AVX512-BF16, AMX), else nothing."""
    kind = device.split(":")[0]
    if kind != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.autocast(kind, dtype=torch.bfloat16)
    return nullcontext()
