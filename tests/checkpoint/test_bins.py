"""Published .bin files: read where they lie, as safetensors are, and nobody's code runs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvl.checkpoint import load_model, save_model
from qvl.errors import CheckpointError


@pytest.fixture
def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights; the folder keeps its config.json alone."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return tensors


def write_shards(folder: Path, weights: dict[str, torch.Tensor]) -> list[Path]:
    """In two files with an index, as published."""
    paths = [folder / f"pytorch_model-{number:05d}-of-00002.bin" for number in (1, 2)]
    weight_map = {}
    for place, path in enumerate(paths):
        part = {name: weights[name] for name in sorted(weights)[place::2]}
        torch.save(part, path)
        weight_map.update(dict.fromkeys(part, path.name))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return paths


def assert_loads_as(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    loaded = sorted(float(p.detach().double().sum()) for p in load_model(folder).parameters())
    assert loaded == sorted(float(tensor.double().sum()) for tensor in weights.values())


def test_shards_with_an_index(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    write_shards(folder, weights)
    assert_loads_as(folder, weights)


def test_a_single_file_new_and_in_torchs_old_format(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    for new in (True, False):
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        assert_loads_as(folder, weights)


def test_what_is_stored_stays_on_the_disk(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    write_shards(folder, weights)
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".bin" in line}
    model = load_model(folder, dtype=None)
    now = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".bin" in line}
    assert len({path for path in now - mapped if path.startswith(str(folder))}) == 2
    del model


def test_tied_weights_become_two_tensors(folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    save_model(load_model(folder), tmp_path / "saved")
    model = load_model(tmp_path / "saved")
    assert torch.equal(model.language.head.weight, model.language.embedding.weight)


@pytest.mark.parametrize("kept", [0, 10, 5000, -10])
def test_a_damaged_shard_is_named(folder: Path, weights: dict[str, torch.Tensor], kept: int) -> None:
    second = write_shards(folder, weights)[1]
    second.write_bytes(second.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf"{second.name}: not a plain file of tensors"):
        load_model(folder)


class Payload:
    """What a hostile pickle would carry."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"x": Payload()}, "not a plain file of tensors"), ([1, 2], "expected a dictionary of tensors")],
)
def test_nothing_but_tensors(
    folder: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)
    assert "never run" not in capsys.readouterr().out
