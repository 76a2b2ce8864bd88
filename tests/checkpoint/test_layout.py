"""Checkpoint folders: the published names and sizes, round trips, and every way in which a folder is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qvl.checkpoint import layout, load_model, save_model
from qvl.checkpoint.names import published_names
from qvl.errors import CheckpointError
from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL

FOLDER = Path("tests/data/model-tiny")
FULL = json.loads(Path("tests/data/full-shapes/shapes.json").read_text())


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


def test_published_names_and_tensors_survive_a_round_trip(tmp_path: Path) -> None:
    save_model(load_model(FOLDER), tmp_path)
    before, after = load_file(FOLDER / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    published = json.loads((FOLDER / "config.json").read_text())
    ours = json.loads((tmp_path / "config.json").read_text())
    assert ours == {key: published[key] for key in ours}  # no key of our own, no other value


def test_loads_in_another_dtype(folder: Path) -> None:
    assert {p.dtype for p in load_model(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def shard(folder: Path) -> None:
    """Two weights files and an index instead of one file."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map.update(dict.fromkeys(names, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_sharded_files_with_an_index(folder: Path) -> None:
    whole = load_model(folder)
    shard(folder)
    sharded = load_model(folder)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), sharded.parameters(), strict=True))
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors, which is missing"):
        load_model(folder)


def test_a_large_model_is_saved_in_several_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(folder)
    save_model(model, tmp_path)
    monkeypatch.setattr(layout, "MAX_FILE_BYTES", 100_000)
    save_model(model, tmp_path)
    files = sorted(path for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 110_000 or len(load_file(path)) == 1 for path in files)
    for name, tensor in load_model(tmp_path).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_an_index_that_names_no_files(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": 3}}')
    with pytest.raises(CheckpointError, match="no weight_map of file names"):
        load_model(folder)


def test_saving_over_a_sharded_checkpoint_replaces_it(folder: Path) -> None:
    """Its index would otherwise bring the old weights back."""
    shard(folder)
    model = load_model(folder)
    with torch.no_grad():
        model.language.ln_f.weight.fill_(7)
    save_model(model, folder)
    assert torch.equal(load_model(folder).language.ln_f.weight, model.language.ln_f.weight)


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
    [
        ("hidden_size", None, "hidden_size"),
        ("vocab_size", "many", "vocab_size"),
        ("vocab_size", 320.0, "positive integer"),
        ("vocab_size", 314, "image_start_id"),
        ("num_attention_heads", 0, "positive integer"),
        ("num_attention_heads", 128, "even"),
        ("kv_channels", 32, "kv_channels"),
        ("rotary_emb_base", float("nan"), "positive number"),
        ("visual", 3, "not a Qwen-VL"),
        ("quantization_config", {"bits": 4}, "has Int4 matrices"),
    ],
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
    with pytest.raises(CheckpointError, match=r"no model\.safetensors or pytorch_model\.bin"):
        load_model(tmp_path)
