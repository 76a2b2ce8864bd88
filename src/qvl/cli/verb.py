"""How a verb enters the command line, and what several verbs ask for."""

import argparse
from collections.abc import Callable
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


def loaded(model: Path, adapter: Path | None, device: str, in_bf16: bool = False) -> Any:
    """A checkpoint folder's model and tokenizer, with adapters where some are given; float32 weights, or bf16 ones."""
    import torch

    from qvl.generate.loaded import QwenVLWithTokenizer, load

    dtype = torch.bfloat16 if in_bf16 else torch.float32
    if adapter is None:
        return load(model, dtype, device)
    from qvl.checkpoint.layout import quantization_of
    from qvl.generate.prepare import prepare
    from qvl.quantize.layout import load_any
    from qvl.text.tokenizer import Tokenizer
    from qvl.train.lora import load_adapter, merge_lora, quantize_of

    whole = load_any(model, dtype, device)
    load_adapter(whole, adapter)
    if quantization_of(model) is None and quantize_of(adapter) == "no":
        merge_lora(whole)
    return QwenVLWithTokenizer(whole, Tokenizer.from_dir(model), prepare(whole))


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
