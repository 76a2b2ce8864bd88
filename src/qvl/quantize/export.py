"""A checkpoint folder -> one that whatever reads Qwen-VL reads."""

from pathlib import Path

import torch

from qvl.checkpoint.beside import copy_beside, write_beside
from qvl.checkpoint.json_files import read_json
from qvl.checkpoint.layout import CONFIG_NAME, load_config, write_folder
from qvl.errors import UsageError
from qvl.files import appearing
from qvl.quantize.layout import any_tensors, load_any
from qvl.text.tokenizer import Tokenizer


def export(source: Path, out: Path, dtype: str | None = None) -> None:
    """Write `source`, whole or Int4, safetensors or .bin, to `out`: safetensors under the published names, config.json,
    vocabulary, all that lies beside the weights, and a model card.

    dtype: of what is no packed integer; None leaves each tensor as it is stored. `out` appears whole or not at all.
    Raises UsageError where it is not empty, CheckpointError for a source that can't be read.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; choose another folder")
    tokenizer = Tokenizer.from_dir(source)
    model = load_any(source, None if dtype is None else getattr(torch, dtype))
    config = read_json(source / CONFIG_NAME)
    if dtype is not None:
        config["torch_dtype"] = dtype
    with appearing(out) as folder:
        copy_beside(source, folder)
        write_folder(any_tensors(model, None), config, folder, tokenizer)
        write_beside(folder, load_config(folder), tokenizer, out.resolve().name)
