"""A checkpoint folder -> one that whatever reads Qwen-VL reads."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from qvl.checkpoint.beside import copy_beside, write_beside
from qvl.checkpoint.json_files import read_json
from qvl.checkpoint.layout import CONFIG_NAME, load_config, quantization_of, write_folder
from qvl.errors import UsageError
from qvl.files import appearing
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.calibrate import CalibrationSample, LayerError, calibrate
from qvl.quantize.layout import any_tensors, load_any, save_int4
from qvl.text.tokenizer import Tokenizer


def export(source: Path, out: Path, dtype: str | None = None) -> None:
    """Write `source`, whole or Int4, safetensors or .bin, to `out`: safetensors under the published names, config.json,
    vocabulary, all that lies beside the weights, and a model card.

    dtype: of what is no packed integer; None leaves each tensor as it is stored. `out` appears whole or not at all.
    Raises UsageError where it is not empty, CheckpointError for a source that can't be read.
    """
    _check_empty(out)
    tokenizer = Tokenizer.from_dir(source)
    model = load_any(source, None if dtype is None else getattr(torch, dtype))
    config = read_json(source / CONFIG_NAME)
    if dtype is not None:
        config["torch_dtype"] = dtype
    with appearing(out) as folder:
        copy_beside(source, folder)
        write_folder(any_tensors(model, None), config, folder, tokenizer)
        write_beside(folder, load_config(folder), tokenizer, out.resolve().name)


def export_int4(
    model: QwenVL,
    source: Path,
    out: Path,
    samples: Sequence[CalibrationSample],
    each: Callable[[LayerError], None] = lambda _: None,
) -> None:
    """Quantise the model of the folder `source`, in place, and write `out` as `export` does. each: told of every
    matrix. UsageError for a folder that is Int4 already, too."""
    _check_empty(out)
    if quantization_of(source) is not None:
        raise UsageError(f"{source}: its matrices are quantised already; take the whole checkpoint")
    calibrate(model, samples, each)
    tokenizer = Tokenizer.from_dir(source)
    with appearing(out) as folder:
        copy_beside(source, folder)
        save_int4(model, {**read_json(source / CONFIG_NAME), "torch_dtype": "float16"}, folder, tokenizer)
        write_beside(folder, load_config(folder), tokenizer, out.resolve().name)


def _check_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; choose another folder")
