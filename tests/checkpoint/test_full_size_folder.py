"""scripts/full_size_folder.py, at the tiny size: its folders load, and answer by the kernels that real ones get."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import qvl
from qvl.model.config import PRESETS
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.layout import load_any
from qvl.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("full_size_folder", "scripts/full_size_folder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("int4", [False, True])
def test_a_folder_of_random_weights_answers(int4: bool, script: ModuleType, tmp_path: Path) -> None:
    script.write(tmp_path, PRESETS["tiny"], Tokenizer.tiny(), int4)
    layers = load_any(tmp_path, None).language.blocks.modules()
    assert any(isinstance(layer, GPTQLinear) for layer in layers) == int4
    vl = qvl.load(tmp_path, torch.bfloat16)
    assert ("Int4 by onnxruntime" in vl.kernels) == int4
    assert vl.chat([{"role": "user", "content": "Hello"}], max_new_tokens=3).answer_tokens == 3
