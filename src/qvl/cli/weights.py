"""`qvl export`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_verb


def add_weights(verbs: Any) -> None:
    """The verb and its flags."""
    about = "a checkpoint folder in the published layout: safetensors, vocabulary, model card"
    export = add_verb(verbs, "export", _export, about)
    export.add_argument("model", help="checkpoint folder, .bin or safetensors, whole or Int4; or owner/model")
    export.add_argument("out", type=Path)
    export.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="(as it is stored)")
    export.add_argument("--hub", help="download owner/model from there: huggingface, modelscope")


def _export(args: argparse.Namespace) -> None:
    from qvl.checkpoint.hub import find_model
    from qvl.quantize.export import export

    export(find_model(args.model, args.hub), args.out, args.dtype)
    for path in sorted(args.out.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
