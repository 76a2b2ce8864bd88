"""Published .bin weights -> safetensors, once and explicitly; load_model itself never opens a pickle."""

import json
import shutil
from pathlib import Path

import torch

from qvl.checkpoint.layout import files_of, load_config, read_json, write_text, write_weights
from qvl.checkpoint.pickles import read_pickle
from qvl.errors import CheckpointError
from qvl.text.tokenizer import VOCABULARY_NAME


def convert_bin(directory: str | Path, out_dir: str | Path) -> list[Path]:
    """Rewrite every *.bin of a checkpoint folder as safetensors in out_dir, one file for one, with an index.

    The configuration and the vocabulary go along, the former last: a conversion that was stopped is no checkpoint.
    Folders of Qwen-7B and of OpenCLIP, from which stage 1 starts, convert too. Nothing is written before every
    source could be read; out_dir may be the folder itself. Raises CheckpointError for a folder without .bin files
    or a file that is not a plain dictionary of tensors.
    """
    directory, out_dir = Path(directory), Path(out_dir)
    files = files_of(directory)
    sources = sorted(directory.glob(files.bins))
    if not sources:
        raise CheckpointError(f"{directory}: no {files.bins} here")
    if "visual" in read_json(directory / files.config):
        load_config(directory)
    parts = [_read_bin(source) for source in sources]  # mapped, not held in memory
    out_dir.mkdir(parents=True, exist_ok=True)
    weight_map, written, total = {}, [], 0
    for number, tensors in enumerate(parts, start=1):
        stem = files.weights.removesuffix(".safetensors")
        name = files.weights if len(sources) == 1 else f"{stem}-{number:05d}-of-{len(sources):05d}.safetensors"
        write_weights(_unshared(tensors), out_dir / name)
        weight_map.update(dict.fromkeys(tensors, name))
        total += sum(value.numel() * value.element_size() for value in tensors.values())
        written.append(out_dir / name)
    if len(sources) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(out_dir / files.index, json.dumps(index, indent=2))
    else:
        (out_dir / files.index).unlink(missing_ok=True)
    if out_dir.resolve() != directory.resolve():
        if (directory / VOCABULARY_NAME).exists():
            shutil.copy(directory / VOCABULARY_NAME, out_dir / VOCABULARY_NAME)
        write_text(out_dir / files.config, (directory / files.config).read_text(encoding="utf-8"))
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
