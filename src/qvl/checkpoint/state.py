"""What a run needs to go on: weights, optimizer, loader position. Each state appears whole or not at all."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

KEPT_STATES = 2


def save_state(
    state_dir: Path, step: int, model: dict[str, Any], optimizer: dict[str, Any], extra: dict[str, Any]
) -> Path:
    """Write step-NNNNNNNN.pt: beside its place, flushed to the disk, then moved there. Older ones go."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / f"step-{step:08d}.pt"
    temporary = state_dir / f".{path.name}.tmp"
    with temporary.open("wb") as file:
        torch.save({"step": step, "model": model, "optimizer": optimizer, "extra": extra}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    for old in _paths(state_dir)[:-KEPT_STATES]:
        old.unlink()
    return path


def latest_state(state_dir: Path) -> dict[str, Any] | None:
    """The newest state that can be read (keys step, model, optimizer, extra), None when there is none."""
    for path in reversed(_paths(state_dir)):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, OSError):
            continue  # damaged outside our control: the one before it serves
        return state
    return None


def _paths(state_dir: Path) -> list[Path]:
    return sorted(state_dir.glob("step-*.pt"))
