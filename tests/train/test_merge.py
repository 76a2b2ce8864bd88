"""Merging: a complete folder that says what adapter and base say, whole or in Int4, and how far it is off."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qvl
from qvl.checkpoint import load_model
from qvl.cli import main
from qvl.errors import CheckpointError, UsageError
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.gptq import GPTQLinear
from qvl.quantize.layout import load_any, save_int4, to_int4
from qvl.text.tokenizer import Tokenizer
from qvl.train import lora
from qvl.train.merge import LogitError, logit_error, merge_adapter, probe_logits
from qvl.train.recipe import LoraConfig

SHIPPED = Path(qvl.__file__).parent / "assets" / "tiny"
LORA = LoraConfig(r=8, alpha=8, train_embeddings="yes")
PARTS = ("vision", "adapter", "language")


def make_adapter(base: Path, folder: Path, settings: LoraConfig = LORA) -> Path:
    """As after some training: both small matrices are there, embedding and head have moved a little."""
    torch.manual_seed(0)
    model = load_any(base)
    lora.add_lora(model, settings, PARTS, Tokenizer.tiny().special, torch.float32, "cpu")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 0.01 if "lora_" in name else 1e-4
            parameter.data += scale * torch.randn_like(parameter)
    lora.save_adapter(model, folder, settings, str(base))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The shipped model with all that may lie beside published weights."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in SHIPPED.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "generation_config.json").write_text('{"chat_format": "chatml", "top_p": 0.3}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "QWenTokenizer"}')
    (folder / "modeling_qwen.py").write_text("# their code\n")
    (folder / "quantize_config.json").write_text("{}")
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "x.Y"}}))
    return folder


def with_adapter(base: Path, adapter: Path) -> QwenVL:
    model = load_any(base)
    lora.load_adapter(model, adapter)
    return model


def exact_logits(model: QwenVL) -> torch.Tensor:
    """In float64, where rounding on the way says nothing."""
    ids = torch.tensor([[5, 17, 300, 42, 7, 900]])
    with torch.no_grad():
        return model.double()(ids)


def test_merged_is_adapter_and_base_in_a_complete_folder(base: Path, tmp_path: Path) -> None:
    adapter, out = make_adapter(base, tmp_path / "adapter"), tmp_path / "out"
    error = merge_adapter(adapter, out)
    expected = exact_logits(with_adapter(base, adapter))
    assert float((exact_logits(load_any(base)) - expected).abs().max()) > 0.1  # the adapter matters
    assert float((exact_logits(load_any(out)) - expected).abs().max()) < 1e-5
    assert error.largest < 1e-4
    assert error.same == 1
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_qwen.py",
        "qwen.tiktoken",
        "tokenizer_config.json",
    }
    assert (out / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert (config["auto_map"], config["torch_dtype"]) == ({"AutoConfig": "x.Y"}, "float32")
    assert set(load_file(out / "model.safetensors")) == set(load_file(base / "model.safetensors"))


def test_a_smaller_type_is_told_by_its_error(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    error = merge_adapter(adapter, tmp_path / "out", dtype="bfloat16")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert 1e-3 < error.largest < 2
    assert error.same > 0.9


@pytest.mark.parametrize("quantize", ["gptq", "nf4"])
def test_a_base_in_four_bits_becomes_whole_or_int4(quantize: str, base: Path, tmp_path: Path) -> None:
    """Q-LoRA: what was trained is the rounded base with its adapter, and that is what is merged."""
    if quantize == "gptq":
        model = load_model(base)
        to_int4(model)
        save_int4(model, json.loads((base / "config.json").read_text()), tmp_path / "int4", Tokenizer.tiny())
        base = tmp_path / "int4"
    settings = replace(LORA, quantize="nf4" if quantize == "nf4" else "no")
    adapter = make_adapter(base, tmp_path / "adapter", settings)
    whole = merge_adapter(adapter, tmp_path / "whole")
    assert whole.largest < 1e-4
    assert load_model(tmp_path / "whole").language.blocks[0].w1.weight.dtype == torch.float32
    assert "quantization_config" not in json.loads((tmp_path / "whole" / "config.json").read_text())

    again = merge_adapter(adapter, tmp_path / "again", requantize=True)
    assert 1e-3 < again.largest < 10
    assert 0 < again.divergence < 0.5
    assert again.same > 0.8
    matrices = [m for m in load_any(tmp_path / "again").modules() if isinstance(m, GPTQLinear)]
    assert len(matrices) == 5 * 4


def test_the_base_may_have_moved(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    moved = base.rename(tmp_path / "moved")
    assert main(["merge", str(adapter), "--out", str(tmp_path / "out")]) == 2
    assert f"its base {base} is not here; say where it is with --model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["merge", str(adapter), "--out", str(tmp_path / "out"), "--model", str(moved)]) == 0
    assert "logits differ by" in capsys.readouterr().out
    with pytest.raises(UsageError, match="is not empty"):
        merge_adapter(adapter, tmp_path / "out", moved)


def test_nothing_half_written_stays(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.transformer.h.9.mlp.w1.lora_A.weight"] = torch.zeros(8, 256)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"h\.9\.mlp\.w1"):
        merge_adapter(adapter, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


def test_errors_are_of_logits() -> None:
    one = [torch.tensor([[0.0, 1.0], [3.0, 0.0]])]
    assert logit_error(one, one) == LogitError(0.0, 0.0, 1.0)
    other = logit_error(one, [torch.tensor([[1.0, 1.5], [0.0, 3.0]])])
    assert (other.largest, other.same) == (3.0, 0.5)
    first = torch.tensor([0.26894, 0.73106]).dot(
        torch.tensor([0.26894, 0.73106]).div(torch.tensor([0.37754, 0.62246])).log()
    )
    second = torch.tensor([0.95257, 0.04743]).dot(
        torch.tensor([0.95257, 0.04743]).div(torch.tensor([0.04743, 0.95257])).log()
    )
    assert other.divergence == pytest.approx(float(first + second) / 2, abs=1e-3)


def test_probes_cover_pictures_and_words(base: Path) -> None:
    model = load_any(base)
    before = probe_logits(model, Tokenizer.tiny())
    assert len(before) == 3
    model.vision.conv1.weight.data += 0.1
    moved = [not torch.equal(a, b) for a, b in zip(before, probe_logits(model, Tokenizer.tiny()), strict=True)]
    assert moved == [True, True, False]
