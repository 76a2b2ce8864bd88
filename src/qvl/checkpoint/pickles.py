"""The only place that opens a pickle: torch's own files, weights_only, so that nobody's code runs."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from qvl.errors import CheckpointError

# What torch.load raises for a damaged file, by where the damage is.
_DAMAGE = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, pickle.UnpicklingError)


def read_pickle(path: Path, mmap: bool = False) -> Any:
    """Tensors and plain values of a file that torch.save wrote; mmap leaves tensors on the disk until used.

    Raises CheckpointError for a damaged file and for one that holds anything else.
    """
    try:
        # Files older than torch 1.6 are no zip archives and can't be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path}: not a plain file of tensors (damaged, or it holds code, which is never run); get it again"
        ) from error
