"""The files that hold a checkpoint's tensors: safetensors, or pickles of torch (.bin), one or several with an index."""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qvl.checkpoint.json_files import read_json
from qvl.checkpoint.pickles import read_pickle
from qvl.errors import CheckpointError
from qvl.files import replacing

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Files:
    """The names of a folder's files."""

    config: str
    weights: str
    bins: str  # the pickle, when it is one

    @property
    def index(self) -> str:
        return f"{self.weights}.index.json"


QWEN_FILES = Files("config.json", "model.safetensors", "pytorch_model.bin")
OPEN_CLIP_FILES = Files("open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def files_of(directory: Path) -> Files:
    """Which names a folder uses, by the configuration that is there."""
    return OPEN_CLIP_FILES if (directory / OPEN_CLIP_FILES.config).exists() else QWEN_FILES


def weight_files(directory: Path, files: Files = QWEN_FILES) -> list[Path]:
    """The files with a folder's tensors: those that an index names, else the single one; safetensors before .bin."""
    for single in (files.weights, files.bins):
        index = directory / f"{single}.index.json"
        if index.exists():
            paths = [directory / name for name in _named_by(index)]
            if missing := [path.name for path in paths if not path.exists()]:
                raise CheckpointError(
                    f"{directory}: the index names {_some(missing)}, which is missing; download it again"
                )
            return paths
        if (directory / single).exists():
            return [directory / single]
    raise CheckpointError(f"{directory}: no {files.weights} or {files.bins} is here, nor an index of several")


def _named_by(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: no weight_map of file names; download the index again")
    return sorted(set(weight_map.values()))


def tensor_names(directory: Path, files: Files = QWEN_FILES) -> set[str]:
    """Of all tensors in the folder's weight files; nothing but their headers is read."""
    names: set[str] = set()
    for path in weight_files(directory, files):
        with _opened(path) as file:
            names |= set(file.keys())
    return names


def read_tensors(
    directory: Path,
    wanted: dict[str, Shape],
    files: Files = QWEN_FILES,
    convert: Callable[[str, torch.Tensor], torch.Tensor] = lambda _, tensor: tensor,
) -> dict[str, torch.Tensor]:
    """name -> shape in; the tensors of these names out, mapped from the disk, each as `convert` makes it.

    What `convert` copies leaves its file before the next one is opened: memory holds the model and one file at most.
    CheckpointError names the file of a tensor with another shape; that all names are there is `check_names`'s part.
    """
    tensors = {}
    for path in weight_files(directory, files):
        with _opened(path) as file:
            for name in sorted(wanted.keys() & set(file.keys())):
                if (found := tuple(file.get_slice(name).get_shape())) != wanted[name]:
                    raise CheckpointError(
                        f"{path}: {name} has shape {found}, the model's configuration asks for {wanted[name]}"
                    )
                tensors[name] = convert(name, file.get_tensor(name))
    return tensors


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
    """The first three, and how many more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def write_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """One safetensors file; tensors that share memory (tied weights) become copies, as the format wants."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.contiguous().clone() if place in seen else tensor.contiguous()
        seen.add(place)
    with replacing(path) as temporary:
        save_file(own, temporary, metadata={"format": "pt"})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix == ".bin":
        yield _Pickled(path)
        return
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); download it again") from error
    with file as opened:
        yield opened


class _Pickled:
    """A .bin file with the methods of an open safetensors file."""

    def __init__(self, path: Path) -> None:
        tensors = read_pickle(path, mmap=True)
        if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise CheckpointError(f"{path}: expected a dictionary of tensors")
        self._tensors: dict[str, torch.Tensor] = tensors

    def keys(self) -> Set[str]:
        return self._tensors.keys()

    def get_slice(self, name: str) -> "_Slice":
        return _Slice(self._tensors[name])

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]


@dataclass(frozen=True)
class _Slice:
    tensor: torch.Tensor

    def get_shape(self) -> torch.Size:
        return self.tensor.shape
