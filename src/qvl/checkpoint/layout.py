"""Checkpoint folders in the published layout: config.json, weights, the vocabulary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qvl.checkpoint.config_json import config_from_json, config_to_json
from qvl.checkpoint.json_files import read_json
from qvl.checkpoint.names import published_names
from qvl.checkpoint.weights import QWEN_FILES, check_names, read_tensors, tensor_names, write_weights
from qvl.errors import CheckpointError
from qvl.files import write_text
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.text.tokenizer import Tokenizer

CONFIG_NAME = QWEN_FILES.config
QUANTIZATION_KEY = "quantization_config"  # in config.json
MAX_FILE_BYTES = 5 * 10**9  # more goes into several files with an index, as published


def load_config(directory: Path) -> QwenVLConfig:
    """config.json of a checkpoint folder. CheckpointError says what is missing or wrong."""
    if not Path(directory).is_dir():
        raise CheckpointError(f"{directory}: no such checkpoint folder")
    path = Path(directory) / CONFIG_NAME
    return config_from_json(read_json(path), str(path))


def quantization_of(directory: Path) -> dict[str, Any] | None:
    """How the folder's matrices are quantised, as config.json says it; None where they are whole."""
    values: dict[str, Any] | None = read_json(directory / CONFIG_NAME).get(QUANTIZATION_KEY)
    return values


def load_model(directory: str | Path, dtype: torch.dtype | None = torch.float32, device: str = "cpu") -> QwenVL:
    """The model of a published-layout folder, safetensors or .bin, one file or shards with an index, in eval mode.

    dtype: None leaves each tensor as it is stored, and on the CPU mapped from the disk, read where it is used.
    Raises CheckpointError naming the file or tensors: a missing folder, config or weights file; a file that is cut
    short or holds code; missing, extra or misshapen tensors; a folder with Int4 matrices.
    """
    directory = Path(directory)
    config = load_config(directory)
    if quantization_of(directory) is not None:
        raise CheckpointError(f"{directory}: has Int4 matrices (quantization_config), which qvl.quantize loads")
    with skeleton():
        model = QwenVL(config)
    names = published_names(config)
    return filled(model, read_state(model, directory, names, lambda _, tensor: tensor.to(device, dtype)))


def read_state(
    model: QwenVL, directory: Path, names: dict[str, str], convert: Callable[[str, torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The folder's tensors by our names, all of them; names: ours -> published. CheckpointError where they differ."""
    check_names(directory, set(names.values()), tensor_names(directory))
    ours = {theirs: ours for ours, theirs in names.items()}
    wanted = {names[name]: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    read = read_tensors(directory, wanted, convert=lambda theirs, tensor: convert(ours[theirs], tensor))
    return {ours[theirs]: tensor for theirs, tensor in read.items()}


def filled(model: QwenVL, state: dict[str, torch.Tensor]) -> QwenVL:
    """A model made on "meta" with its tensors, in eval mode."""
    model.load_state_dict(state, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != "adapter.pos_embed")
    return model.eval()


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
    files = _into_files(own)
    for name, part in files.items():
        write_weights(part, directory / name)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(map(_bytes, own.values()))},
            "weight_map": {tensor: name for name, part in files.items() for tensor in part},
        }
        write_text(directory / QWEN_FILES.index, json.dumps(index, indent=2))
        (directory / QWEN_FILES.weights).unlink(missing_ok=True)  # of a smaller one
    else:
        (directory / QWEN_FILES.index).unlink(missing_ok=True)  # of a sharded checkpoint saved over: it would win
    if tokenizer is not None:
        tokenizer.save(directory)
    write_text(directory / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True) + "\n")


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
        return {QWEN_FILES.weights: parts[0]}
    return {f"model-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, start=1)}


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
