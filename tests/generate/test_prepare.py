"""What computes a loaded model's products is said in words."""

import pytest
import torch

from qvl.generate.loaded import load


@pytest.mark.parametrize("hardware", [True, False])
def test_bf16_without_products_in_hardware_is_said_to_be_slow(hardware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl.generate.prepare.multiplies_bf16", lambda _: hardware)
    kernels = load("src/qvl/assets/tiny", dtype=torch.bfloat16).kernels
    assert kernels.startswith("bfloat16 on cpu")
    assert ("SLOW" in kernels) != hardware
    assert "SLOW" not in load("src/qvl/assets/tiny", dtype=torch.float32).kernels
