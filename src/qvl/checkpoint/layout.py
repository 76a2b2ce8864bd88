"""Checkpoint folders in the published layout: config.json, safetensors, the vocabulary."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qvl.checkpoint.config_json import config_from_json, config_to_json
from qvl.checkpoint.names import published_names
from qvl.errors import CheckpointError
from qvl.files import replacing, write_text
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
QUANTIZATION_KEY = "quantization_config"  # in config.json
BIN_PATTERN = "pytorch_model*.bin"  # what the published checkpoints came as


def load_config(directory: Path) -> QwenVLConfig:
    """config.json of a checkpoint folder. CheckpointError says what is missing or wrong."""
    if not Path(directory).is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint folder")
    path = Path(directory) / CONFIG_NAME
    return config_from_json(_read_json(path), str(path))


def read_config(directory: Path) -> dict[str, Any]:
    """config.json as it is."""
    return _read_json(directory / CONFIG_NAME)


def quantization_of(directory: Path) -> dict[str, Any] | None:
    """How the folder's matrices are quantised, as config.json says it; None where they are whole."""
    values: dict[str, Any] | None = read_config(directory).get(QUANTIZATION_KEY)
    return values


def load_model(directory: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> QwenVL:
    """The model of a published-layout folder, one weights file or shards with an index, in eval mode.

    Raises CheckpointError naming the file or tensors: a missing folder, config or weights file; a file that
    is cut short; missing, extra or misshapen tensors; a folder with .bin files only, or with Int4 matrices.
    """
    directory = Path(directory)
    config = load_config(directory)
    if quantization_of(directory) is not None:
        raise CheckpointError(f"{directory}: has Int4 matrices (quantization_config), which qvl.quantize loads")
    with torch.device("meta"):
        model = QwenVL(config)
    names = published_names(config)
    state = read_weights(directory, {names[ours]: tuple(t.shape) for ours, t in model.state_dict().items()})
    return filled(model, {ours: state[theirs].to(device, dtype) for ours, theirs in names.items()})


def filled(model: QwenVL, state: dict[str, torch.Tensor]) -> QwenVL:
    """A model made on "meta" with its tensors, in eval mode."""
    model.load_state_dict(state, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != "adapter.pos_embed")
    return model.eval()


def read_weights(directory: Path, wanted: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Published name -> shape in; the folder's tensors out, mapped from the disk. CheckpointError where they differ."""
    with ExitStack() as stack:
        found = _open_all(directory, stack)
        _check_names(directory, wanted.keys(), found.keys())
        for name, (file, path) in found.items():
            shape = tuple(file.get_slice(name).get_shape())
            if shape != wanted[name]:
                raise CheckpointError(f"{path}: {name} has shape {shape}, config.json asks for {wanted[name]}")
        return {name: file.get_tensor(name) for name, (file, _) in found.items()}


def tensor_names(directory: Path) -> set[str]:
    """Of all tensors in the folder's weight files."""
    with ExitStack() as stack:
        return set(_open_all(directory, stack))


def _open_all(directory: Path, stack: ExitStack) -> dict[str, tuple[Any, Path]]:
    found: dict[str, tuple[Any, Path]] = {}
    for path in weight_files(directory):
        file = stack.enter_context(_open(path))
        found.update(dict.fromkeys(file.keys(), (file, path)))
    return found


def save_model(model: QwenVL, directory: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder that load_model reads, under the published names; each file appears whole or not at all."""
    write_folder(published_tensors(model), config_to_json(model.config), Path(directory), tokenizer)


def published_tensors(model: QwenVL) -> dict[str, torch.Tensor]:
    """The model's tensors by their published names."""
    state = model.state_dict()
    return {theirs: state[ours] for ours, theirs in published_names(model.config).items()}


def write_folder(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], directory: Path, tokenizer: Tokenizer | None
) -> None:
    """Tensors by published name, vocabulary, and config.json last of all."""
    directory.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_weights(own, directory / WEIGHTS_NAME)
    (directory / INDEX_NAME).unlink(missing_ok=True)  # of a sharded checkpoint saved over: it would win
    if tokenizer is not None:
        tokenizer.save(directory)
    write_text(directory / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """One safetensors file."""
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a folder: those that the index names, else the single one."""
    index = directory / INDEX_NAME
    if index.exists():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index}: no weight_map of file names; download the index again")
        paths = [directory / name for name in sorted(set(weight_map.values()))]
    elif (directory / WEIGHTS_NAME).exists():
        paths = [directory / WEIGHTS_NAME]
    elif list(directory.glob(BIN_PATTERN)):
        raise CheckpointError(f"{directory}: only .bin weights; make safetensors with `qvl convert {directory} OUT`")
    else:
        raise CheckpointError(f"{directory}: neither {WEIGHTS_NAME} nor {INDEX_NAME} is here")
    if missing := [path.name for path in paths if not path.exists()]:
        raise CheckpointError(f"{directory}: the index names {_some(missing)}, which is missing; download it again")
    return paths


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); download it again") from error


def _check_names(directory: Path, wanted: Any, found: Any) -> None:
    problems = []
    if missing := sorted(wanted - found):
        problems.append(f"missing {_some(missing)}")
    if extra := sorted(found - wanted):
        problems.append(f"unexpected {_some(extra)}")
    if problems:
        raise CheckpointError(f"{directory}: tensors do not fit config.json: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; a checkpoint folder needs it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
