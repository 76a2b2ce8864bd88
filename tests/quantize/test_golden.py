"""Matrices that AutoGPTQ packed: the same numbers here, in the layer and in the fast kernel."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.kernels import Int4Linear, kernel_for

GOLDEN = Path("tests/data/gptq")
CASES = json.loads((GOLDEN / "golden.json").read_text())
TENSORS = load_file(GOLDEN / "golden.safetensors")


def golden(case: str) -> tuple[GPTQLinear, dict[str, Tensor]]:
    about = CASES[case]
    stored = {name.partition(".")[2]: value for name, value in TENSORS.items() if name.startswith(f"{case}.")}
    layer = GPTQLinear(about["in_features"], about["out_features"], about["bias"], about["group_size"])
    own = {name: stored[name] for name in layer.state_dict()}
    layer.load_state_dict(own, assign=True)
    return layer.requires_grad_(False), stored


@pytest.mark.parametrize("case", CASES)
def test_the_matrix_is_the_golden_one(case: str) -> None:
    layer, stored = golden(case)
    assert torch.equal(layer.matrix(torch.float32), stored["weight_fp32"])
    if "weight_fp16" in stored:
        assert torch.equal(layer.matrix(torch.float16), stored["weight_fp16"])


@pytest.mark.parametrize("case", ["sym", "asym"])
def test_the_product_is_the_golden_one(case: str) -> None:
    layer, stored = golden(case)
    torch.testing.assert_close(layer(stored["x"]), stored["y_fp32"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_computes_with_the_golden_matrix(case: str) -> None:
    layer, stored = golden(case)
    assert kernel_for(layer) is not None
    x = stored.get("x", torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0)))
    wanted = x @ stored["weight_fp32"].t() + (stored["bias"].float() if "bias" in stored else 0)
    with torch.inference_mode():
        found = Int4Linear(layer)(x)
    assert float((found - wanted).norm() / wanted.norm()) < 0.01
