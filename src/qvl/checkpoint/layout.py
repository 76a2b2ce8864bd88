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
MAX_FILE_BYTES = 5 * 10**9  # more goes into several files with an index, as published
BIN_PATTERN = "pytorch_model*.bin"  # what the published checkpoints came as


def load_config(directory: Path) -> QwenVLConfig:
    """config.json of a checkpoint folder. CheckpointError says what is missing or wrong."""
    path = Path(directory) / CONFIG_NAME
    return config_from_json(_read_json(path), str(path))


def load_model(directory: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> QwenVL:
    """The model of a published-layout folder, one weights file or shards with an index, in eval mode.

    Raises CheckpointError naming the file or tensors: a missing folder, config or weights file; a file that
    is cut short; missing, extra or misshapen tensors; a folder with .bin files only.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint folder")
    config = load_config(directory)
    with torch.device("meta"):
        model = QwenVL(config)
    ours_of = {theirs: ours for ours, theirs in published_names(config).items()}
    wanted = {theirs: tuple(model.state_dict()[ours].shape) for theirs, ours in ours_of.items()}
    state = {}
    with ExitStack() as stack:
        found = {}
        for path in weight_files(directory):
            file = stack.enter_context(_open(path))
            found.update(dict.fromkeys(file.keys(), (file, path)))
        _check_names(directory, wanted.keys(), found.keys())
        for name, (file, path) in found.items():
            shape = tuple(file.get_slice(name).get_shape())
            if shape != wanted[name]:
                raise CheckpointError(f"{path}: {name} has shape {shape}, config.json asks for {wanted[name]}")
            state[ours_of[name]] = file.get_tensor(name).to(device=device, dtype=dtype)
    model.load_state_dict(state, assign=True)
    model.adapter.pos_embed.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != "adapter.pos_embed")
    return model.eval()


def save_model(model: QwenVL, directory: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a folder that load_model reads, under the published names; each file appears whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    names = published_names(model.config)
    tensors = {theirs: state[ours].detach().cpu().contiguous() for ours, theirs in names.items()}
    files = _into_files(tensors)
    for name, part in files.items():
        write_weights(part, directory / name)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(map(_bytes, tensors.values()))},
            "weight_map": {tensor: name for name, part in files.items() for tensor in part},
        }
        write_text(directory / INDEX_NAME, json.dumps(index, indent=2))
        (directory / WEIGHTS_NAME).unlink(missing_ok=True)  # of a smaller one
    else:
        (directory / INDEX_NAME).unlink(missing_ok=True)  # of a sharded checkpoint saved over: it would win
    if tokenizer is not None:
        tokenizer.save(directory)
    text = json.dumps(config_to_json(model.config), indent=2, sort_keys=True)
    write_text(directory / CONFIG_NAME, text + "\n")


def _into_files(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """File name -> its tensors, in order, each file as full as it may be."""
    parts: list[dict[str, torch.Tensor]] = [{}]
    room = MAX_FILE_BYTES
    for name, tensor in tensors.items():
        if parts[-1] and _bytes(tensor) > room:
            parts.append({})
            room = MAX_FILE_BYTES
        parts[-1][name] = tensor
        room -= _bytes(tensor)
    if len(parts) == 1:
        return {WEIGHTS_NAME: parts[0]}
    return {f"model-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, start=1)}


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


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
