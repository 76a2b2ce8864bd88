"""Folders for others: every form of weights in, the published layout out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvl.checkpoint import load_model
from qvl.checkpoint.config_json import config_to_json
from qvl.cli import main
from qvl.errors import UsageError
from qvl.quantize.export import export
from qvl.quantize.layout import load_any, save_int4, to_int4
from qvl.text.tokenizer import Tokenizer


def test_nothing_changes_but_the_form(checkpoint_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "bins", tmp_path / "out"
    source.mkdir()
    for name in ("config.json", "qwen.tiktoken"):
        (source / name).write_bytes((checkpoint_dir / name).read_bytes())
    (source / "generation_config.json").write_text('{"top_p": 0.3}')
    (source / "modeling_qwen.py").write_text("# whose owner shipped it")
    tensors = load_file(checkpoint_dir / "model.safetensors")
    torch.save(tensors, source / "pytorch_model.bin")
    assert main(["export", str(source), str(out)]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    written = load_file(out / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    assert (out / "config.json").read_text() == (source / "config.json").read_text()
    assert json.loads((out / "generation_config.json").read_text()) == {"top_p": 0.3}
    assert (out / "modeling_qwen.py").exists()
    assert "# out" in (out / "README.md").read_text()


def test_dtype_and_config_say_the_same(checkpoint_dir: Path, tmp_path: Path) -> None:
    export(checkpoint_dir, tmp_path / "out", "bfloat16")
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()} == {torch.bfloat16}


def test_int4_stays_int4(checkpoint_dir: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint_dir)
    to_int4(model)
    save_int4(model, config_to_json(model.config), tmp_path / "int4", Tokenizer.tiny())
    export(tmp_path / "int4", tmp_path / "out")
    before, after = (load_any(tmp_path / name, None).state_dict() for name in ("int4", "out"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_that_is_there_stays(checkpoint_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        export(checkpoint_dir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
