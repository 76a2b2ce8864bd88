"""Published .bin weights -> safetensors, once and explicitly; load_model itself never opens a pickle."""

import json
import shutil
from pathlib import Path

import torch

from qvl.checkpoint.layout import (
    BIN_PATTERN,
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    load_config,
    write_text,
    write_weights,
)
from qvl.checkpoint.pickles import read_pickle
from qvl.errors import CheckpointError
from qvl.text.tokenizer import VOCABULARY_NAME


def convert_bin(directory: str | Path, out_dir: str | Path) -> list[Path]:
    """Rewrite every *.bin of a checkpoint folder as safetensors in out_dir, one file for one, with an index.

    config.json and the vocabulary go along, config.json last: a conversion that was stopped is no checkpoint.
    Nothing is written before every source could be read; out_dir may be the folder itself. Raises
    CheckpointError for a folder without .bin files or a file that is not a plain dictionary of tensors.
    """
    directory, out_dir = Path(directory), Path(out_dir)
    sources = sorted(directory.glob(BIN_PATTERN))
    if not sources:
        raise CheckpointError(f"{directory}: no {BIN_PATTERN} here")
    load_config(directory)
    parts = [_read_bin(source) for source in sources]  # mapped, not held in memory
    out_dir.mkdir(parents=True, exist_ok=True)
    weight_map, written, total = {}, [], 0
    for number, tensors in enumerate(parts, start=1):
        name = WEIGHTS_NAME if len(sources) == 1 else f"model-{number:05d}-of-{len(sources):05d}.safetensors"
        write_weights(_unshared(tensors), out_dir / name)
        weight_map.update(dict.fromkeys(tensors, name))
        total += sum(value.numel() * value.element_size() for value in tensors.values())
        written.append(out_dir / name)
    if len(sources) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(out_dir / INDEX_NAME, json.dumps(index, indent=2))
    else:
        (out_dir / INDEX_NAME).unlink(missing_ok=True)
    if out_dir.resolve() != directory.resolve():
        if (directory / VOCABULARY_NAME).exists():
            shutil.copy(directory / VOCABULARY_NAME, out_dir / VOCABULARY_NAME)
        write_text(out_dir / CONFIG_NAME, (directory / CONFIG_NAME).read_text(encoding="utf-8"))
    return written


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors with memory of their own, as safetensors wants them: tied weights become copies."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.contiguous().clone() if place in seen else tensor.contiguous()
        seen.add(place)
    return own


def _read_bin(path: Path) -> dict[str, torch.Tensor]:
    tensors = read_pickle(path, mmap=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors")
    return tensors
