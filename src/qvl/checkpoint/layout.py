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
    path = Path(directory) / CONFIG_NAME
    return config_from_json(read_json(path), str(path))


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
    with open_weights(weight_files(directory)) as stored:
        check_names(directory, wanted.keys(), stored.keys())
        for name, shape in wanted.items():
            state[ours_of[name]] = read_tensor(stored, name, shape).to(device=device, dtype=dtype)
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
