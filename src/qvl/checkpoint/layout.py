"""Checkpoint folders in the published layout: config.json, safetensors, the vocabulary."""

import json
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
MAX_FILE_BYTES = 5 * 10**9  # more goes into several files with an index, as published


@dataclass(frozen=True)
class Files:
    """The names of a folder's files."""

    config: str
    weights: str
    bins: str  # pattern of pickles, which only `qvl convert` reads

    @property
    def index(self) -> str:
        return f"{self.weights}.index.json"


QWEN_FILES = Files(CONFIG_NAME, WEIGHTS_NAME, "pytorch_model*.bin")
OPEN_CLIP_FILES = Files("open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model*.bin")
Stored = dict[str, tuple[Any, Path]]  # tensor -> the open file that holds it, and its path


def files_of(directory: Path) -> Files:
    """Which names a folder uses, by the configuration that is there."""
    return OPEN_CLIP_FILES if (directory / OPEN_CLIP_FILES.config).exists() else QWEN_FILES


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
    """The model of a published-layout folder, one weights file or shards with an index, in eval mode.

    dtype: None leaves each tensor as it is stored, and on the CPU mapped from the disk, read where it is used.
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
    with open_weights(weight_files(directory)) as stored:
        check_names(directory, wanted.keys(), stored.keys())
        return {name: read_tensor(stored, name, shape) for name, shape in wanted.items()}


def tensor_names(directory: Path) -> set[str]:
    """Of all tensors in the folder's weight files."""
    with open_weights(weight_files(directory)) as stored:
        return set(stored)


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
        write_text(directory / INDEX_NAME, json.dumps(index, indent=2))
        (directory / WEIGHTS_NAME).unlink(missing_ok=True)  # of a smaller one
    else:
        (directory / INDEX_NAME).unlink(missing_ok=True)  # of a sharded checkpoint saved over: it would win
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
        return {WEIGHTS_NAME: parts[0]}
    return {f"model-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, start=1)}


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def write_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """One safetensors file."""
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def weight_files(directory: Path, files: Files = QWEN_FILES) -> list[Path]:
    """The safetensors files of a folder: those that the index names, else the single one."""
    index = directory / files.index
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index}: no weight_map of file names; download the index again")
        paths = [directory / name for name in sorted(set(weight_map.values()))]
    elif (directory / files.weights).exists():
        paths = [directory / files.weights]
    elif list(directory.glob(files.bins)):
        raise CheckpointError(f"{directory}: only .bin weights; make safetensors with `qvl convert {directory} OUT`")
    else:
        raise CheckpointError(f"{directory}: neither {files.weights} nor {files.index} is here")
    if missing := [path.name for path in paths if not path.exists()]:
        raise CheckpointError(f"{directory}: the index names {_some(missing)}, which is missing; download it again")
    return paths


@contextmanager
def open_weights(paths: list[Path]) -> Iterator[Stored]:
    """What the files hold; nothing but their headers is read."""
    with ExitStack() as stack:
        stored: Stored = {}
        for path in paths:
            file = stack.enter_context(_open(path))
            stored.update(dict.fromkeys(file.keys(), (file, path)))
        yield stored


def read_tensor(stored: Stored, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One tensor, read now. CheckpointError names the file where its shape is another."""
    file, path = stored[name]
    if (found := tuple(file.get_slice(name).get_shape())) != shape:
        raise CheckpointError(f"{path}: {name} has shape {found}, the model's configuration asks for {shape}")
    tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); download it again") from error


def check_names(directory: Path, wanted: Set[str], found: Set[str]) -> None:
    """CheckpointError naming what is missing and what is unexpected."""
    problems = []
    if missing := sorted(wanted - found):
        problems.append(f"missing {_some(missing)}")
    if extra := sorted(found - wanted):
        problems.append(f"unexpected {_some(extra)}")
    if problems:
        raise CheckpointError(f"{directory}: tensors do not fit the configuration: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; a checkpoint folder needs it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
