"""The only place that opens a pickle, and nobody's code runs: torch's own files by weights_only, and the index of a
distributed checkpoint by its classes' names."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from qvl.errors import CheckpointError

# What torch.load raises for a damaged file, by where the damage is.
DAMAGE = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, pickle.UnpicklingError)

_INDEX_CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch": ("Size",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "WindowsPath"),
}


def read_pickle(path: Path, mmap: bool = False) -> Any:
    """Tensors and plain values of a file that torch.save wrote; mmap leaves tensors on the disk until used.

    Raises CheckpointError for a damaged file and for one that holds anything else.
    """
    try:
        # Files older than torch 1.6 are no zip archives and can't be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except DAMAGE as error:
        raise CheckpointError(
            f"{path}: not a plain file of tensors (damaged, or it holds code, which is never run); get it again"
        ) from error


def read_index(path: Path) -> Any:
    """The `.metadata` of a distributed checkpoint; CheckpointError as of `read_pickle`."""
    try:
        with path.open("rb") as file:
            return _IndexUnpickler(file).load()
    except (*DAMAGE, MemoryError) as error:
        raise CheckpointError(f"{path}: not the index of a distributed checkpoint, or damaged") from error


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = name in _INDEX_CLASSES.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")
