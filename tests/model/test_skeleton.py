"""Modules without memory."""

import subprocess
import sys

import torch
from torch import nn

from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton


def test_a_skeleton_has_the_shapes_of_the_model_and_no_memory() -> None:
    with skeleton():
        bare = QwenVL(PRESETS["tiny"])
    real = QwenVL(PRESETS["tiny"])
    assert {n: p.shape for n, p in bare.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert all(p.is_meta for p in bare.parameters())
    assert not any(p.is_meta for p in nn.Linear(2, 2).parameters())  # behind it all is as before
    assert float(torch.empty(64).normal_().abs().max()) > 0


def test_it_does_not_load_the_compiler() -> None:
    code = (
        "import sys; from qvl.model.config import PRESETS; from qvl.model.qwen_vl import QwenVL\n"
        "from qvl.model.skeleton import skeleton\n"
        "with skeleton(): QwenVL(PRESETS['tiny'])\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
