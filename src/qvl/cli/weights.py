"""`qvl export` and `qvl quantize`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_verb, usable_device
from qvl.errors import UsageError

REPORT_NAME = "quantisation.md"


def add_weights(verbs: Any) -> None:
    """The verbs and their flags."""
    about = "a checkpoint folder in the published layout: safetensors, vocabulary, model card"
    export = add_verb(verbs, "export", _export, about)
    _add_folders(export)
    export.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="(as it is stored)")

    about = "Int4 (GPTQ) with calibration on one's own samples; the language model alone, as published"
    quantize = add_verb(verbs, "quantize", _quantize, about)
    _add_folders(quantize)
    quantize.add_argument("--data", type=Path, required=True, help="split of samples to calibrate with")
    quantize.add_argument("--samples", type=int, default=128, help="so many of them (128)")
    quantize.add_argument("--seed", type=int, default=0, help="which ones (0)")
    quantize.add_argument("--report", type=Path, metavar="SPLIT", help="loss, answers and boxes on held-out samples")
    quantize.add_argument("--limit", type=int, default=200, help="of --report: samples, and questions a task (200)")
    quantize.add_argument("--device", default="cpu")


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="checkpoint folder, .bin or safetensors; or owner/model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--hub", help="download owner/model from there: huggingface, modelscope")


def _export(args: argparse.Namespace) -> None:
    from qvl.checkpoint.hub import find_model
    from qvl.quantize.export import export

    export(find_model(args.model, args.hub), args.out, args.dtype)
    _say_files(args.out)


def _quantize(args: argparse.Namespace) -> None:
    import sys

    import torch

    from qvl.checkpoint.hub import find_model
    from qvl.checkpoint.layout import load_config
    from qvl.evaluate.quality import encoded, some_samples
    from qvl.generate.loaded import usual_dtype
    from qvl.quantize.calibrate import CalibrationSample, LayerError
    from qvl.quantize.export import export_int4
    from qvl.quantize.layout import load_any
    from qvl.text.tokenizer import Tokenizer

    for flag in ("samples", "limit"):
        if getattr(args, flag) < 1:
            raise UsageError(f"--{flag} {getattr(args, flag)}: at least 1")
    source, device = find_model(args.model, args.hub), usable_device(args.device)
    tokenizer = Tokenizer.from_dir(source)
    samples = some_samples(args.data, args.samples, args.seed)
    held_out = some_samples(args.report, args.limit, args.seed) if args.report else []
    model = load_any(source, usual_dtype(load_config(source), device), device)
    read = [one for one in (encoded(sample, model, tokenizer) for sample in samples) if one is not None]
    if len(read) < len(samples):
        print(f"{len(samples) - len(read)} samples are too long for the model and are left out", file=sys.stderr)
    calibration = [CalibrationSample(torch.tensor([one.input_ids], device=device), pixels) for one, pixels in read]

    def say(error: LayerError) -> None:
        print(f"{error.name}: error {error.error:.4f} (rounded to the nearest: {error.rounded:.4f})", flush=True)

    export_int4(model, source, args.out, calibration, say)
    _say_files(args.out)
    if args.report:
        _report(args, source, held_out, device)


def _report(args: argparse.Namespace, source: Path, held_out: list[Any], device: str) -> None:
    """Whole and Int4 in bfloat16, with the kernels that would serve them."""
    import torch

    from qvl.evaluate.quality import quality, quality_table
    from qvl.files import write_text
    from qvl.generate.prepare import prepare
    from qvl.quantize.layout import load_any, to_int4
    from qvl.text.tokenizer import Tokenizer

    tokenizer, rows = Tokenizer.from_dir(source), {}
    for name, folder in (("bfloat16", source), ("rounded", source), ("calibrated", args.out)):
        model = load_any(folder, torch.bfloat16, device)
        if name == "rounded":
            to_int4(model)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        kernels = prepare(model)
        rows[name] = (quality(model, tokenizer, args.report, held_out, args.limit), size, kernels)
    table = quality_table(rows)
    write_text(args.out / REPORT_NAME, table)
    print(table)


def _say_files(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
