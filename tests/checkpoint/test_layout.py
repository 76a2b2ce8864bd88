"""Checkpoint folders: the published names and sizes, round trips, and every way in which a folder is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qvl.checkpoint import load_model, save_model
from qvl.checkpoint.convert import convert_bin
from qvl.checkpoint.names import published_names
from qvl.errors import CheckpointError
from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL

FOLDER = Path("tests/data/model-tiny")
FULL = json.loads(Path("tests/data/full-shapes/shapes.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy that a test may break."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FOLDER / name, tmp_path / name)
    return tmp_path


def test_the_full_model_has_the_published_names_shapes_and_counts() -> None:
    with torch.device("meta"):
        model = QwenVL(PRESETS["qwen-vl"])
    names = published_names(model.config)
    shapes = {names[ours]: list(tensor.shape) for ours, tensor in model.state_dict().items()}
    assert shapes == FULL["shapes"]
    counts = {
        part: sum(p.numel() for p in model.get_submodule(part).parameters())
        for part in ("vision", "adapter", "language")
    }
    assert counts == {
        "vision": FULL["counts"]["vit"],
        "adapter": FULL["counts"]["adapter_total"],
        "language": FULL["counts"]["llm"],
    }
    assert sum(counts.values()) == FULL["counts"]["total"] == 9_656_935_168


def test_layer_groups_hold_every_parameter_once() -> None:
    model = QwenVL(PRESETS["tiny"])
    grouped = [p for _, params in model.layer_groups() for p in params]
    assert len({id(p) for p in grouped}) == len(grouped)
    left_out = {n for n, p in model.named_parameters() if all(p is not g for g in grouped)}
    assert left_out == {"adapter.pos_embed"}


def test_save_then_load_gives_the_same_weights_and_config(tmp_path: Path) -> None:
    model = QwenVL(PRESETS["tiny"])
    model.initialize(5)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_loads_in_another_dtype(folder: Path) -> None:
    assert {p.dtype for p in load_model(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_sharded_files_with_an_index(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    whole = load_model(folder)
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map.update(dict.fromkeys(names, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded = load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), sharded.parameters(), strict=True))
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors, which is missing"):
        load_model(folder)


def rewrite(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in change.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.ln_f.weight": None}, r"missing transformer\.ln_f\.weight"),
        ({"transformer.h.9.ln_1.weight": torch.ones(4)}, r"unexpected transformer\.h\.9\.ln_1\.weight"),
        ({"transformer.ln_f.weight": torch.ones(7)}, r"transformer\.ln_f\.weight has shape \(7,\).*\(128,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: dict[str, torch.Tensor | None], message: str) -> None:
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def test_a_file_that_is_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("hidden_size", None, "hidden_size"), ("vocab_size", "many", "vocab_size"), ("visual", 3, "not a Qwen-VL")],
)
def test_a_config_with_a_wrong_value(folder: Path, key: str, value: object, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        load_model(tmp_path)
    shutil.copy(FOLDER / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_model(tmp_path)


def test_bin_files_only_through_the_converter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tensors = load_file(folder / "model.safetensors")
    whole = load_model(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[:30], names[30:]), start=1):
        torch.save({name: tensors[name] for name in part}, folder / f"pytorch_model-{number:05d}-of-00002.bin")
    with pytest.raises(CheckpointError, match="qvl convert"):
        load_model(folder)
    out = tmp_path_factory.mktemp("converted")
    assert len(convert_bin(folder, out)) == 2
    converted = load_model(out)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), converted.parameters(), strict=True))


class Payload:
    """What a hostile pickle would carry."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_the_converter_runs_nobodys_code(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"x": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a plain file of tensors"):
        convert_bin(folder, tmp_path_factory.mktemp("out"))
    assert "never run" not in capsys.readouterr().out
