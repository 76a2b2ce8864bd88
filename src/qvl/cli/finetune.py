"""`qvl finetune` and `qvl merge`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
import os
from pathlib import Path
from typing import Any

from qvl.cli.verb import add_ranks, add_verb, usable_device, usable_ranks
from qvl.errors import UsageError


def add_finetune(verbs: Any) -> None:
    """Both verbs with their flags."""
    tune = add_verb(verbs, "finetune", _finetune, "train a model on your dialogues; goes on where it was killed")
    tune.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    tune.add_argument("--data", type=Path, required=True, help="dialogues: Qwen-VL's JSON, LLaVA's, OpenAI messages")
    tune.add_argument("--images", type=Path, help="where the paths of its pictures start (the data's own folder)")
    tune.add_argument("--out", type=Path, default=Path("runs/finetune"), help="the run's folder (runs/finetune)")
    method = tune.add_mutually_exclusive_group()
    method.add_argument("--lora", action="store_true", help="adapters (the default)")
    method.add_argument("--nf4", action="store_true", help="adapters on a base in four bits (Q-LoRA)")
    method.add_argument("--full", action="store_true", help="all weights but the ViT's")
    tune.add_argument("--epochs", type=float, help="times that each sample is seen (5, or what 100 steps take)")
    tune.add_argument("--leave-out-bad", action="store_true", help="train without the samples that have problems")
    tune.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value of the recipe")
    tune.add_argument("--dry-run", action="store_true", help="prepare data and recipe, say what would train, and leave")
    add_ranks(tune)
    tune.add_argument("--device", default="cpu")

    merge = add_verb(verbs, "merge", _merge, "adapters and their base -> one checkpoint folder")
    merge.add_argument("adapter", type=Path)
    merge.add_argument("--out", type=Path, required=True)
    merge.add_argument("--model", type=Path, help="where the base is (where the adapter says)")
    written = merge.add_mutually_exclusive_group()
    written.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="(float32)")
    written.add_argument("--requantize", action="store_true", help="Int4, each value rounded to the nearest")


def say_result(recipe: Any, stage_dir: Path) -> None:
    """Where a finished stage's weights are."""
    from qvl.train.stage import result_name

    print(f"{result_name(recipe)}: {stage_dir / result_name(recipe)}")


def _finetune(args: argparse.Namespace) -> None:
    from qvl.train.describe import describe
    from qvl.train.finetune import prepare
    from qvl.train.launch import launch
    from qvl.train.recipe import load_recipe
    from qvl.train.trainer import run_recipe

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "torchrun: one process prepares the data; run `qvl finetune ... --ranks N --dry-run`, N in all, then "
            f"`torchrun ... -m qvl train {args.out / 'finetune.toml'} --out {args.out.parent}`"
        )
    ranks = usable_ranks(args.ranks)
    device = usable_device(args.device) if ranks == 1 else args.device  # this process must not take a part of a GPU
    if args.epochs is not None and not 0 < args.epochs < float("inf"):
        raise UsageError(f"--epochs {args.epochs}: more than 0")
    path, account = prepare(
        args.model,
        args.data,
        args.out.absolute(),
        images_dir=args.images,
        method="full" if args.full else "nf4" if args.nf4 else "lora",
        epochs=args.epochs,
        ranks=ranks,
        leave_out_bad=args.leave_out_bad,
        overrides=tuple(args.set),
    )
    recipe, run_dir = load_recipe(path), path.parent.parent
    print(f"{account.summary()}\nrecipe: {path}")
    if args.dry_run:
        print(describe(recipe, run_dir, ranks))
    elif ranks > 1:
        launch(ranks, ["train", str(path), "--out", str(run_dir), "--device", device])
    else:
        say_result(recipe, run_recipe(path, out=run_dir, device=device))


def _merge(args: argparse.Namespace) -> None:
    from qvl.train.merge import merge_adapter

    error = merge_adapter(args.adapter, args.out, args.model, requantize=args.requantize, dtype=args.dtype)
    print(f"{args.out}: {error}")
