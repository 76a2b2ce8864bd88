"""How a verb enters the command line, and what several verbs ask for."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qvl.errors import UsageError


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
    """A verb with its line for --help, and the function that runs it."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """--ranks, of verbs that train."""
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes of this machine, a GPU each (1)")


def usable_ranks(count: int) -> int:
    """The number of ranks if there can be so many."""
    if count < 1:
        raise UsageError(f"--ranks {count}: at least 1")
    return count


def usable_device(name: str) -> str:
    """The device's name if tensors can live there."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: torch can't use it here; leave it out for the CPU, or give cuda") from error
    return name


def add_model(parser: argparse.ArgumentParser) -> None:
    """The flags of verbs that answer: which model, and how it is held."""
    parser.add_argument("--model", help="checkpoint folder (the newest run, or the shipped weights); or owner/model")
    parser.add_argument("--hub", help="download owner/model from there: huggingface, modelscope")
    parser.add_argument("--adapter", type=Path, help="folder of adapters for the model, of `qvl finetune` or peft")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="(bfloat16 on a GPU and for large models)")
    parser.add_argument("--device", default="cpu")


def model_of(args: argparse.Namespace) -> tuple[Path, Callable[[], Any]]:
    """The folder that the flags of `add_model` name, and what loads it."""
    import torch

    from qvl.checkpoint.hub import find_model

    folder = default_model() if args.model is None else find_model(args.model, args.hub)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    adapter = None if args.adapter is None else args.adapter.resolve()  # another process may load it
    return folder, partial(loaded, folder.resolve(), adapter, usable_device(args.device), dtype)


def default_model() -> Path:
    """The newest checkpoint of a finished last stage under runs/, else the weights that ship with qvl."""
    from importlib import resources

    found = sorted(Path("runs").glob("*/sft/checkpoint/config.json"), key=lambda path: path.stat().st_mtime)
    if found:
        return found[-1].parent
    shipped = Path(str(resources.files("qvl.assets") / "tiny"))
    if (shipped / "config.json").exists():
        return shipped
    raise UsageError("no checkpoint here: make one with `make demo`, or give a checkpoint folder")


def loaded(folder: Path, adapter: Path | None, device: str, dtype: Any = None) -> Any:
    """A checkpoint folder's model and tokenizer, with adapters where some are given; dtype as of `qvl.load`."""
    from qvl.generate.loaded import QwenVLWithTokenizer
    from qvl.generate.prepare import prepare
    from qvl.text.tokenizer import Tokenizer

    whole = adapted(folder, adapter, device, dtype)
    return QwenVLWithTokenizer(whole, Tokenizer.from_dir(folder), prepare(whole))


def adapted(folder: Path, adapter: Path | None, device: str, dtype: Any) -> Any:
    """The model of `loaded`, before it is prepared for answering; adapters of whole matrices are merged."""
    from qvl.checkpoint.layout import load_config, quantization_of
    from qvl.generate.loaded import usual_dtype
    from qvl.quantize.layout import load_any
    from qvl.train.lora import load_adapter, merge_lora, quantize_of

    whole = load_any(folder, dtype or usual_dtype(load_config(folder), device), device)
    if adapter is not None:
        load_adapter(whole, adapter)
        if quantization_of(folder) is None and quantize_of(adapter) == "no":
            merge_lora(whole)
    return whole


def check_benchmarks(recipe: Any, run_dir: Path) -> None:
    """The error that the benchmarks of a recipe's [evaluate] would end in, before anything is trained."""
    if recipe.evaluate is not None:
        from qvl.evaluate.benchmarks import chosen
        from qvl.evaluate.run import Asked, read_items

        for benchmark in chosen(recipe.evaluate.tasks):
            read_items(benchmark, run_dir / recipe.evaluate.data, Asked())


def run_benchmarks(recipe: Any, step: int, model: Any, tokenizer: Any, run_dir: Path) -> None:
    """The benchmarks of a recipe's [evaluate], for `run_recipe`."""
    from qvl.evaluate.during import evaluate_step

    wanted = recipe.evaluate
    data = run_dir / wanted.data
    evaluate_step(run_dir / recipe.name, step, model, tokenizer, wanted.tasks, data, wanted.limit, recipe.precision)
