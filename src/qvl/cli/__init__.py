"""`qvl VERB`: flags -> one call. Imports stand inside functions, so that --help is quick."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qvl.cli.data import add_data_tools
from qvl.cli.evaluate import add_eval
from qvl.cli.explain import add_explain
from qvl.cli.finetune import add_finetune, say_result
from qvl.cli.serve import add_serve
from qvl.cli.study import add_study
from qvl.cli.verb import (
    add_model,
    add_ranks,
    add_verb,
    check_benchmarks,
    model_of,
    run_benchmarks,
    usable_device,
    usable_ranks,
)
from qvl.cli.weights import add_weights
from qvl.errors import QvlError, RecipeError, UsageError

TINY_RECIPES = Path("recipes/tiny")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, an error's own (see qvl.errors), 130 after Ctrl-C, 143 after SIGTERM."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that half-written files go
    run: Callable[[argparse.Namespace], None] = args.run
    try:
        run(args)
    except QvlError as error:
        _say(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error.filename or error}: {error.strerror}", file=sys.stderr)
        return QvlError.exit_code
    return 0


def _say(error: QvlError) -> None:
    """One line; of several ranks each names itself, and what all of them find wrong is said once."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        print(f"error: {error}", file=sys.stderr)
    elif not isinstance(error, UsageError | RecipeError):
        print(f"error: rank {rank}: {error}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Every verb and flag."""
    parser = argparse.ArgumentParser(prog="qvl", description="Qwen-VL, end to end: data, training, evaluation, chat.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    demo = add_verb(verbs, "demo", _demo, "the whole recipe at laptop size: data, stages, evaluation, report")
    demo.add_argument("--recipes", type=Path, default=TINY_RECIPES, help="folder with world.toml and the stages")
    demo.add_argument("--out", type=Path, default=Path("runs/tiny"))
    demo.add_argument("--device", default="cpu")

    world = add_verb(verbs, "world", _world, "write samples of the tiny world: train and held-out test")
    world.add_argument("--out", type=Path, required=True)
    world.add_argument("--seed", type=int, default=7)
    world.add_argument("--train", type=int, default=24000, help="samples (24000)")
    world.add_argument("--test", type=int, default=1600, help="held-out samples (1600)")
    world.add_argument("--dense", type=int, help="also N pictures with labels for each patch", metavar="N")
    world.add_argument("--photos", default="", help="folder of photographs for backgrounds (the system's own)")
    world.add_argument("--workers", type=int, help="processes (one per core)")

    add_data_tools(verbs)

    train = add_verb(verbs, "train", _train, "train one stage; starts again where a killed run was")
    train.add_argument("recipe", type=Path)
    train.add_argument("--out", type=Path, default=Path("runs/tiny"), help="the run's folder")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value")
    train.add_argument("--log-to", nargs="+", default=[], choices=["tensorboard", "wandb"], help="its numbers too")
    train.add_argument("--dry-run", action="store_true", help="say what would train, and leave")
    add_ranks(train)
    train.add_argument("--device", default="cpu")

    add_finetune(verbs)

    plan = add_verb(verbs, "plan", _plan, "memory, time and cost of a stage on so many GPUs, and how to share it")
    plan.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="one, or several to add up their cost")
    plan.add_argument("--gpus", type=int, required=True, metavar="N")
    plan.add_argument("--device", required=True, help="h100, h200, a100-80g, a100-40g, l40s, rtx4090, ...")
    plan.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value")
    plan.add_argument("--mfu", type=float, help="share of the peak that computing is taken to reach (0.4)")
    plan.add_argument("--json", action="store_true", help="as JSON, a list with a plan for each recipe")

    add_eval(verbs)

    report = add_verb(verbs, "report", _report, "one self-contained HTML page about a run")
    report.add_argument("run_dir", type=Path)
    report.add_argument("--data", type=Path, nargs="+", help="held-out splits (RUN/world/test)")

    add_study(verbs)
    add_explain(verbs)

    chat = add_verb(verbs, "chat", _chat, "talk about pictures; boxes are drawn and saved")
    add_model(chat)
    chat.add_argument("--image", action="append", default=[], metavar="PATH", help="a picture; may come several times")
    chat.add_argument("--ask", metavar="QUESTION", help="ask once and leave")
    chat.add_argument("--save", type=Path, default=Path("answer.png"), help="where boxes are drawn (answer.png)")
    chat.add_argument("--temperature", type=float, default=0.0)
    chat.add_argument("--system", help="the system text")

    add_serve(verbs)

    add_weights(verbs)
    return parser


def _demo(args: argparse.Namespace) -> None:
    from qvl.demo import run_demo

    run_demo(args.recipes, args.out, usable_device(args.device))


def _world(args: argparse.Namespace) -> None:
    from qvl.data.world.build import WorldConfig, write_dense, write_world
    from qvl.model.config import PRESETS

    if args.dense is not None and args.dense < 1:
        raise UsageError(f"--dense {args.dense}: at least 1 picture, or leave it out")
    config = WorldConfig(args.seed, args.train, args.test, args.photos)
    for split, counts in write_world(args.out, config, args.workers).items():
        tasks = ", ".join(f"{task} {count}" for task, count in counts.most_common())
        print(f"{args.out / split}: {counts.total()} samples ({tasks})")
    if args.dense is not None:
        grid = PRESETS["tiny"].vision.grid
        write_dense(args.out / "dense", args.seed, args.dense, grid, args.workers, args.photos)
        print(f"{args.out / 'dense'}: {args.dense} pictures with labels for each patch")


def _train(args: argparse.Namespace) -> None:
    from qvl.train.describe import describe
    from qvl.train.launch import losing_others_is_told
    from qvl.train.ranks import joined
    from qvl.train.recipe import load_recipe
    from qvl.train.trainer import run_recipe

    recipe = load_recipe(args.recipe, args.set)
    count = usable_ranks(args.ranks)
    if args.dry_run:
        print(describe(recipe, args.out, count))
        return
    if count > 1:
        _launch(args)
        return
    with losing_others_is_told(), joined(usable_device(args.device), recipe.parallel.tensor) as (ranks, device):
        check_benchmarks(recipe, args.out)
        stage_dir = run_recipe(args.recipe, args.set, args.out, device, ranks, args.log_to, run_benchmarks)
        if ranks.is_first:
            say_result(recipe, stage_dir)


def _launch(args: argparse.Namespace) -> None:
    from qvl.train.launch import launch

    values = [flag for value in args.set for flag in ("--set", value)]
    sinks = ["--log-to", *args.log_to] if args.log_to else []
    command = ["train", str(args.recipe), "--out", str(args.out), "--device", args.device, *values, *sinks]
    launch(args.ranks, command)


def _plan(args: argparse.Namespace) -> None:
    import json

    from qvl.train.devices import device_named
    from qvl.train.plan_report import plan_text, plan_values, total_text
    from qvl.train.planner import ASSUMED_MFU, plan
    from qvl.train.recipe import load_recipe

    device = device_named(args.device)
    reached = ASSUMED_MFU if args.mfu is None else args.mfu
    plans = [plan(load_recipe(path, args.set), device, args.gpus, reached) for path in args.recipes]
    if args.json:
        print(json.dumps([plan_values(one) for one in plans], indent=2))
        return
    print("\n\n".join(map(plan_text, plans)))
    if len(plans) > 1:
        print(f"\n{total_text(plans)}")


def _report(args: argparse.Namespace) -> None:
    from qvl.evaluate.report import write_report

    print(write_report(args.run_dir, args.data or [args.run_dir / "world" / "test"]))


def _chat(args: argparse.Namespace) -> None:
    from qvl.generate.sampling import SamplingConfig
    from qvl.generate.terminal import ask_once, converse

    _, load = model_of(args)
    chat = load().conversation(system=args.system, sampling=SamplingConfig(args.temperature))
    if args.ask is not None:
        ask_once(chat, args.ask, args.image, args.save)
    else:
        converse(chat, args.image, args.save)
