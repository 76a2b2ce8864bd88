"""How a loaded model is laid out for this machine."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from qvl.generate.loaded import load
from qvl.images import preprocess
from qvl.model.narrow import PART, NarrowLinear, fits
from qvl.model.widened import ONE_BY_ONE, WIDENED_BYTES, WidenedLinear

EXACT = range(-32, 1)  # powers of two, beside the greatest weight's, at which bf16 loses nothing


def on_a_cpu_without_bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl.generate.prepare.multiplies_bf16", lambda _: False)


def by_a_torch_without_fbgemm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvl.generate.prepare.fits", lambda _: False)


def logits(dtype: torch.dtype) -> Tensor:
    vl = load("src/qvl/assets/tiny", dtype=dtype)
    pixels = preprocess("examples/picture.png", vl.model.config.vision.image_size)[None]
    start, queries = vl.model.config.image_start_id, vl.model.config.vision.num_queries
    ids = [start, *[start + 2] * queries, start + 1, *vl.tokenizer.encode("What is here?")]
    with torch.inference_mode():
        return vl.model(torch.tensor([ids]), pixels)


def test_what_multiplies_a_model_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> list[str]:
        return [load("src/qvl/assets/tiny", dtype=dtype).kernels for dtype in (torch.float32, torch.bfloat16)]

    on_a_cpu_without_bf16_products(monkeypatch)
    kernel = "matrices in 16 bits, multiplied in float32"
    assert said() == [f"float32 on cpu, {kernel}", f"bfloat16 on cpu, {kernel}"]
    by_a_torch_without_fbgemm(monkeypatch)
    assert said() == [
        "float32 on cpu, matrices laid out for oneDNN",
        "bfloat16 on cpu, products of several rows in float32",
    ]


@pytest.mark.parametrize("greatest", [-30, -5, 0, 15])
def test_a_narrow_matrix_is_the_one_it_was_made_of(greatest: int) -> None:
    """All 128 significands that bf16 knows at every power of two: as `weight`, and in products with units."""
    powers = torch.tensor([math.ldexp(1, greatest + power) for power in EXACT])
    layer = nn.Linear(128, 2 * len(EXACT), bias=False)
    layer.weight = nn.Parameter(torch.cat([powers, -powers])[:, None] * (1 + torch.arange(128) / 128))
    narrow = NarrowLinear(layer)
    assert torch.equal(narrow.weight, layer.weight)
    for rows in (1, 2, 128):
        assert torch.equal(narrow(torch.eye(128)[:rows]), layer.weight.t()[:rows])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_a_narrow_product_is_that_of_its_matrix(rows: int, dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4096, 2 * PART // 4096 + 3, bias=bias).bfloat16()  # two parts and a bit
    x = torch.randn(1, rows, 4096, dtype=dtype)
    found = NarrowLinear(layer)(x)
    assert found.dtype == dtype
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(found.double(), layer.double()(x.double()), rtol=rounding, atol=rounding)


def test_only_matrices_that_lose_nothing_become_narrow() -> None:
    weight = torch.randn(2, 2**20).bfloat16()
    assert all(fits(kept) for kept in (weight, weight.float(), weight.half().float(), torch.zeros(2, 2)))
    for value in (1 + 2**-11, math.inf, math.nan, 2.0**100):
        other = weight.float()
        other[1, -1] = value
        assert not fits(other), value
    assert not fits(weight * 2.0**-100)
    assert not fits(weight.double())  # whoever asks for float64 gets it


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, ONE_BY_ONE, ONE_BY_ONE + 1, 40])
def test_a_widened_product_is_that_of_its_matrix(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4096, 2 * WIDENED_BYTES // (4 * 4096) + 3, bias=bias).bfloat16()  # two parts and a bit
    x = torch.randn(1, rows, 4096)
    widened = WidenedLinear(layer)
    assert widened.narrow.data_ptr() == layer.weight.data_ptr()  # mapped from the disk it stays there
    found = widened(x)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found.double(), layer.double()(x.double()), rtol=2**-7, atol=2**-7)


def test_without_bf16_products_a_bf16_model_says_what_it_says_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_cpu_without_bf16_products(monkeypatch)
    exact = logits(torch.float32)
    assert torch.equal(logits(torch.bfloat16), exact)
    by_a_torch_without_fbgemm(monkeypatch)
    assert (logits(torch.bfloat16) - exact).abs().max() < 0.05 * exact.abs().max()


TAKEN = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, "scripts")
from full_size_folder import made_up
from qvl.generate.prepare import prepare
from qvl.model.config import PRESETS
from qvl.quantize.gptq import GPTQLinear

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024

def model(layers):
    tiny, sizes = PRESETS["tiny"], {"hidden_size": 2048, "intermediate_size": 2 * 5504, "num_layers": layers}
    made = replace(tiny, vision=replace(tiny.vision, output_dim=2048), language=replace(tiny.language, **sizes))
    return made_up(made, int4=True)

prepare(model(1))  # what is needed once
whole = model(6)
packed = sum(m.qweight.nbytes for m in whole.modules() if isinstance(m, GPTQLinear))
before = own()
prepare(whole)
print(own() - before, packed)
"""


def test_int4_matrices_take_little_more_memory_than_in_their_file() -> None:
    """The tensors that the model is made of share their memory: what is new is what was laid out."""
    done = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True, check=True)
    taken, packed = map(int, done.stdout.split())
    assert 0.5 * packed < taken < 1.4 * packed
