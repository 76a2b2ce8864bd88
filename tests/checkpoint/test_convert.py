"""Published .bin files: only through the converter, whole or not at all, and nobody's code runs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvl.checkpoint import load_model
from qvl.checkpoint.convert import convert_bin
from qvl.errors import CheckpointError


@pytest.fixture
def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights; the folder keeps its config.json alone."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return tensors


@pytest.fixture
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


def write_shards(folder: Path, weights: dict[str, torch.Tensor]) -> list[Path]:
    paths = [folder / f"pytorch_model-{number:05d}-of-00002.bin" for number in (1, 2)]
    for place, path in enumerate(paths):
        torch.save({name: weights[name] for name in sorted(weights)[place::2]}, path)
    return paths


def assert_loads_as(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    loaded = sorted(float(p.detach().double().sum()) for p in load_model(folder).parameters())
    assert loaded == sorted(float(tensor.double().sum()) for tensor in weights.values())


def test_bin_files_only_through_the_converter(folder: Path, weights: dict[str, torch.Tensor], out: Path) -> None:
    write_shards(folder, weights)
    with pytest.raises(CheckpointError, match="qvl convert"):
        load_model(folder)
    written = convert_bin(folder, out)
    assert len(written) == 2
    again = {name: tensor for path in written for name, tensor in load_file(path).items()}
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert_loads_as(out, weights)


def test_converts_within_the_folder(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    write_shards(folder, weights)
    convert_bin(folder, folder)
    assert_loads_as(folder, weights)


def test_files_in_torchs_old_format(folder: Path, weights: dict[str, torch.Tensor], out: Path) -> None:
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    convert_bin(folder, out)
    assert_loads_as(out, weights)


def test_tied_weights_become_two_tensors(folder: Path, weights: dict[str, torch.Tensor], out: Path) -> None:
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    convert_bin(folder, out)
    model = load_model(out)
    assert torch.equal(model.language.head.weight, model.language.embedding.weight)


@pytest.mark.parametrize("kept", [0, 10, 5000, -10])
def test_a_damaged_shard_leaves_nothing_behind(
    folder: Path, weights: dict[str, torch.Tensor], out: Path, kept: int
) -> None:
    second = write_shards(folder, weights)[1]
    second.write_bytes(second.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf"{second.name}: not a plain file of tensors"):
        convert_bin(folder, out)
    assert not list(out.iterdir())


class Payload:
    """What a hostile pickle would carry."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"x": Payload()}, "not a plain file of tensors"), ([1, 2], "expected a dictionary of tensors")],
)
def test_nothing_but_tensors(
    folder: Path, out: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        convert_bin(folder, out)
    assert "never run" not in capsys.readouterr().out
