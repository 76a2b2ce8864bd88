"""Folders with all the names of the published ones and random weights of small width: read whole, in little memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qvl
from qvl.checkpoint import load_model, save_model
from qvl.checkpoint.config_json import config_to_json
from qvl.errors import CheckpointError
from qvl.model.config import LanguageConfig, QwenVLConfig, VisionConfig
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.layout import load_any, save_int4, to_int4
from qvl.text.tokenizer import Tokenizer

SHAPES = Path("tests/data/full-shapes")
WHOLE = json.loads((SHAPES / "shapes.json").read_text())["shapes"].keys()
INT4 = json.loads((SHAPES / "int4_keys.json").read_text())["keys"]
Shards = dict[str, dict[str, torch.Tensor]]


def narrow(width: int, hidden: int) -> QwenVLConfig:
    """The published depths, so all names."""
    tokenizer = Tokenizer.tiny()
    vision = VisionConfig(28, 14, width, heads=2, output_dim=hidden, position_rows=4, adapter_head_size=32)
    language = LanguageConfig(tokenizer.vocab_size + 3, hidden, num_heads=hidden // 64, intermediate_size=hidden * 4)
    return QwenVLConfig(vision, language, tokenizer.special.img_start)


def random_model(config: QwenVLConfig) -> QwenVL:
    torch.manual_seed(0)
    return QwenVL(config).half().eval()


def into_bins(shards: Shards, folder: Path) -> None:
    for number, part in enumerate(shards.values(), start=1):
        torch.save(part, folder / f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin")
    names = {
        name: f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        for number, part in enumerate(shards.values(), start=1)
        for name in part
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def into_safetensors(shards: Shards, folder: Path) -> None:
    for name, part in shards.items():
        save_file(part, folder / name)
    names = {tensor: name for name, part in shards.items() for tensor in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def shard(folder: Path, write: Callable[[Shards, Path], None], count: int) -> set[str]:
    """A folder's single file -> so many in the way of `write`; the tensors' names."""
    single = folder / "model.safetensors"
    tensors = load_file(single)
    names = sorted(tensors)
    parts = [{name: tensors[name].clone() for name in names[i::count]} for i in range(count)]
    single.unlink()
    write({f"model-{i:05d}-of-{count:05d}.safetensors": part for i, part in enumerate(parts, start=1)}, folder)
    return set(names)


@pytest.mark.parametrize("write", [into_bins, into_safetensors], ids=["bin", "safetensors"])
def test_all_853_names_are_read_and_none_is_left(write: Callable[[Shards, Path], None], tmp_path: Path) -> None:
    model = random_model(narrow(32, 64))
    save_model(model, tmp_path, Tokenizer.tiny())
    assert shard(tmp_path, write, 10) == set(WHOLE)
    loaded = load_model(tmp_path, torch.float16)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    vl = qvl.load(tmp_path)
    question = [{"type": "image_url", "image_url": {"url": "examples/picture.png"}}, {"type": "text", "text": "什么？"}]
    assert vl.chat([{"role": "user", "content": question}], max_new_tokens=3).answer_tokens == 3


def test_all_1461_names_of_int4_are_read_and_none_is_left(tmp_path: Path) -> None:
    model = random_model(narrow(32, 64))
    to_int4(model)
    save_int4(model, config_to_json(model.config), tmp_path, Tokenizer.tiny())
    with_biases(tmp_path / "model.safetensors")
    assert shard(tmp_path, into_safetensors, 5) == set(INT4)
    loaded = load_any(tmp_path)
    assert sum(isinstance(module, GPTQLinear) for module in loaded.modules()) == 160
    assert qvl.load(tmp_path).chat([{"role": "user", "content": "Hello"}], max_new_tokens=3).answer_tokens == 3


def with_biases(path: Path) -> None:
    """AutoGPTQ writes one for every matrix, of zeros where the model has none."""
    tensors = load_file(path)
    for name, value in list(tensors.items()):
        if name.endswith(".qweight"):
            bias = name.replace("qweight", "bias")
            tensors.setdefault(bias, torch.zeros(value.shape[1], dtype=torch.float16))
    save_file(tensors, path)


def test_one_more_tensor_is_named(tmp_path: Path) -> None:
    save_model(random_model(narrow(32, 64)), tmp_path, Tokenizer.tiny())
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "transformer.h.0.attn.rotary.inv_freq": torch.zeros(4)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected transformer\.h\.0\.attn\.rotary\.inv_freq"):
        load_model(tmp_path)


PEAK = """
import sys, torch
from pathlib import Path
from qvl.quantize.layout import load_any

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

load_any("src/qvl/assets/tiny")  # what torch imports at the first call is not the weights'
before = resident()
model = load_any(sys.argv[1], torch.bfloat16)
print(resident() - before, sum(t.numel() * t.element_size() for t in model.state_dict().values()))
"""


@pytest.mark.parametrize("write", [into_bins, into_safetensors], ids=["bin", "safetensors"])
def test_loading_takes_the_memory_of_the_weights_and_of_one_file(
    write: Callable[[Shards, Path], None], tmp_path: Path
) -> None:
    """Converted from float16 to bfloat16, so that nothing can stay mapped."""
    save_model(random_model(narrow(256, 512)), tmp_path, Tokenizer.tiny())
    shard(tmp_path, write, 10)
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    peak, weights = map(int, done.stdout.split())
    assert weights > 150e6
    assert peak < 1.3 * weights
