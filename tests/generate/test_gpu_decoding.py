"""The benchmark that waits for a GPU, at tiny size on the CPU; and on a GPU, the engine beside the CPU's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qvl
from qvl.generate.engine import Engine
from qvl.generate.prepare import prepare
from qvl.generate.request import Request
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.kernels import Int4Linear
from qvl.quantize.layout import load_any, to_int4

SHIPPED = Path(qvl.__file__).parent / "assets" / "tiny"
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def test_every_line_of_the_benchmark() -> None:
    command = [sys.executable, "benchmarks/gpu_decoding.py", "--preset", "tiny", "--device", "cpu", "--lengths", "64"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" to ")[0].strip() for line in lines if " to 64 tokens" in line] == ["bfloat16", "Int4"]
    assert all("% of a copy's bandwidth" in line for line in lines if " to 64 tokens" in line)
    assert "Int4: bfloat16 on cpu" in done.stdout


def answers(device: str, int4: bool = False) -> list[list[int]]:
    model = load_any(SHIPPED, torch.float32, device)
    if int4:
        to_int4(model)
    prepare(model)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 800, (length,), generator=generator).tolist() for length in (20, 300, 7, 90, 33)]
    return Engine(model, max_rows=3).run([Request(prompt, [], 40) for prompt in prompts])


class TestOnGpu:
    pytestmark = on_gpu

    def test_recorded_decoding_says_what_the_cpu_says(self) -> None:
        assert answers("cuda") == answers("cpu")

    def test_int4_products(self) -> None:
        torch.manual_seed(0)
        layer = GPTQLinear.from_linear(torch.nn.Linear(1376, 768)).requires_grad_(False)
        x = torch.randn(5, 1376)
        wanted = x.double() @ layer.matrix(torch.float64).t() + layer.bias.double()
        with torch.inference_mode():
            found = Int4Linear(layer.to("cuda"))(x.to("cuda")).cpu()
        assert float((found - wanted).abs().max()) < 0.02 * float(wanted.abs().max())
