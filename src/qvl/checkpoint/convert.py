"""Published .bin weights -> safetensors; the only place that opens a pickle, with weights_only."""

import json
import pickle
import shutil
from pathlib import Path

import torch

from qvl.checkpoint.layout import CONFIG_NAME, INDEX_NAME, WEIGHTS_NAME, load_config, write_weights
from qvl.errors import CheckpointError
from qvl.text.tokenizer import VOCABULARY_NAME


def convert_bin(directory: str | Path, out_dir: str | Path) -> list[Path]:
    """Rewrite every *.bin of a checkpoint folder as safetensors in out_dir, one file for one, with an index.

    config.json and the vocabulary go along. Raises CheckpointError for a folder without .bin files or a
    file that is not a plain dictionary of tensors.
    """
    directory, out_dir = Path(directory), Path(out_dir)
    sources = sorted(directory.glob("pytorch_model*.bin"))
    if not sources:
        raise CheckpointError(f"{directory}: no pytorch_model*.bin here")
    load_config(directory)
    out_dir.mkdir(parents=True, exist_ok=True)
    weight_map, written, total = {}, [], 0
    for number, source in enumerate(sources, start=1):
        tensors = _read_bin(source)
        name = WEIGHTS_NAME if len(sources) == 1 else f"model-{number:05d}-of-{len(sources):05d}.safetensors"
        write_weights({key: value.contiguous() for key, value in tensors.items()}, out_dir / name)
        weight_map.update(dict.fromkeys(tensors, name))
        total += sum(value.numel() * value.element_size() for value in tensors.values())
        written.append(out_dir / name)
    if len(sources) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out_dir / INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")
    for extra in (CONFIG_NAME, VOCABULARY_NAME):
        if (directory / extra).exists():
            shutil.copy(directory / extra, out_dir / extra)
    return written


def _read_bin(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise CheckpointError(f"{path}: not a plain file of tensors ({str(error).splitlines()[0]})") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors")
    return tensors
