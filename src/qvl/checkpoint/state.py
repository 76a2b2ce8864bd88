"""What a run needs to go on: weights, optimizer, loader position. Each state appears whole or not at all."""

import warnings
from pathlib import Path
from typing import Any

import torch

from qvl.checkpoint.pickles import read_pickle
from qvl.errors import CheckpointError
from qvl.files import replacing

KEPT_STATES = 2
_KEYS = {"step", "model", "optimizer", "extra"}


def save_state(
    state_dir: Path, step: int, model: dict[str, Any], optimizer: dict[str, Any], extra: dict[str, Any]
) -> Path:
    """Write step-NNNNNNNN.pt: beside its place, flushed to the disk, then moved there. Older ones go."""
    path = state_dir / f"step-{step:08d}.pt"
    with replacing(path) as temporary:
        torch.save({"step": step, "model": model, "optimizer": optimizer, "extra": extra}, temporary)
    for old in _paths(state_dir)[:-KEPT_STATES]:
        old.unlink()
    return path


def latest_state(state_dir: Path) -> dict[str, Any] | None:
    """The newest state that can be read (keys step, model, optimizer, extra), None when there is none.

    One that can't be read, damaged outside our control, is named in a warning and the one before it serves.
    """
    for path in reversed(_paths(state_dir)):
        try:
            state: dict[str, Any] = read_pickle(path)
        except CheckpointError:
            state = {}
        if isinstance(state, dict) and state.keys() == _KEYS:
            return state
        warnings.warn(f"{path}: damaged or no training state, passed over", stacklevel=2)
    return None


def _paths(state_dir: Path) -> list[Path]:
    return sorted(state_dir.glob("step-*.pt"))
