"""A recipe -> a trained stage: the loop, its checkpoints and how it resumes."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from qvl.data.loader import Loader, State, lost
from qvl.errors import DataError, RecipeError
from qvl.files import write_text
from qvl.images import normalize
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train import deepspeed_engine
from qvl.train.best import KeepBest, read_held_out
from qvl.train.deepspeed_engine import DeepSpeedEngine, check_deepspeed, gather_trained
from qvl.train.dense import DenseHead, DenseLoader
from qvl.train.engine import STATE_NAME, Engine, TorchEngine
from qvl.train.faults import Faults
from qvl.train.optim import freeze, lr_at
from qvl.train.parallel import check_replicable, parallelize, prepare_blocks, whole_model
from qvl.train.ranks import ALONE, Ranks
from qvl.train.recipe import Recipe, load_recipe, recipe_from_dict
from qvl.train.stage import (
    add_adapters,
    build_head,
    build_loader,
    initial_model,
    is_saved,
    model_config,
    result_name,
    save_result,
    tokenizer_of,
)
from qvl.train.telemetry import Telemetry
from qvl.train.trained import table, what_trains

RECIPE_NAME = "recipe.json"
BEST_NAME = "best"  # the result so far, where samples are held out
SHARDS_NAME = "shards.txt"  # the fingerprint of what the stage reads
Watcher = Callable[[int, QwenVL], None]  # called with the steps done and the model


class Benchmarks(Protocol):
    """Asks a recipe's benchmarks of whole weights."""

    def __call__(self, recipe: Recipe, step: int, model: QwenVL, tokenizer: Tokenizer, run_dir: Path) -> None: ...


def run_recipe(
    path: Path,
    overrides: list[str] | None = None,
    out: Path = Path("runs/tiny"),
    device: str = "cpu",
    ranks: Ranks = ALONE,
    log_to: Sequence[str] = (),
    benchmarks: Benchmarks | None = None,
) -> Path:
    """Train one stage into `out/NAME` and return that folder; every rank calls. log_to: see qvl.train.sinks.

    Starts again where a killed run was; a finished stage is left as it is. benchmarks: asks those of a recipe's
    [evaluate] (see qvl.evaluate.during); without it none are asked. Raises RecipeError when the folder holds a run of
    the same name with other values.
    """
    recipe = load_recipe(path, overrides)
    if recipe.lora and ranks.mesh is not None:
        check_replicable(recipe.parallel)
    stage_dir = out / recipe.name
    check_unclaimed(stage_dir, recipe)
    check_engine(stage_dir, recipe)
    if is_saved(result := stage_dir / result_name(recipe)):
        return stage_dir
    tokenizer = tokenizer_of(recipe)
    config = model_config(recipe, tokenizer)
    loader = build_loader(recipe, out, config, tokenizer, ranks)
    if recipe.parallel.deepspeed:
        check_deepspeed(recipe, config, stage_dir, ranks, device)
    held_out = read_held_out(recipe, out)
    if isinstance(loader, Loader):
        check_shards(stage_dir, loader)
    shared_out = ranks.mesh is not None and recipe.lora is None and not recipe.parallel.deepspeed
    model = initial_model(recipe, out, tokenizer) if ranks.is_first or not shared_out else None
    if model is not None:
        add_adapters(model, recipe, tokenizer, device)
    # Only now: a stage without its data or its start leaves nothing behind.
    if ranks.is_first:
        if isinstance(loader, Loader):
            write_text(stage_dir / SHARDS_NAME, loader.shards)
        write_text(stage_dir / RECIPE_NAME, _as_json(recipe))
        _note_stage(out, recipe.name)
    if shared_out:
        model = parallelize(model, config, ranks, recipe, device)
    else:
        assert model is not None
        prepare_blocks(model.to(device), recipe.parallel)
    head = build_head(recipe, model, tokenizer)

    def whole(model: QwenVL) -> QwenVL | None:
        """All weights, on the first rank."""
        if recipe.parallel.deepspeed:
            return gather_trained(model, initial_model(recipe, out, tokenizer) if ranks.is_first else None)
        return whole_model(model, ranks)

    def save(model: QwenVL, folder: Path) -> None:
        if (gathered := whole(model)) is not None:
            save_result(gathered, folder, recipe, out, tokenizer)
        ranks.gather(None)  # the first rank has written it

    watchers: list[Watcher] = []
    best = None
    if held_out:
        keep = partial(save, folder=stage_dir / BEST_NAME)
        best = KeepBest(stage_dir, recipe, held_out, tokenizer, device, keep, ranks)
        watchers.append(best.after_step)
    if recipe.evaluate and benchmarks:
        ask = partial(benchmarks, recipe, tokenizer=tokenizer, run_dir=out)
        watchers.append(partial(_ask_benchmarks, ask, whole, recipe, ranks))
    train(model, head, loader, recipe, stage_dir, device, ranks, log_to, watchers)
    if best is None:
        save(model, result)
        return stage_dir
    if ranks.is_first:
        os.replace(stage_dir / BEST_NAME, result)
        step, loss = best.best
        print(f"{recipe.name}: held-out loss {best.losses[0]:.4f} at first, {loss:.4f} after step {step}: that is kept")
    ranks.gather(None)
    return stage_dir


def _ask_benchmarks(
    ask: Callable[[int, QwenVL], None],
    whole: Callable[[QwenVL], QwenVL | None],
    recipe: Recipe,
    ranks: Ranks,
    step: int,
    model: QwenVL,
) -> None:
    """A watcher: the recipe's benchmarks when they are due, on the first rank, for which the others wait."""
    assert recipe.evaluate is not None
    if step % recipe.evaluate.every and step != recipe.steps:
        return
    if (gathered := whole(model)) is not None:
        gathered.eval()
        ask(step, gathered)
    model.train()
    ranks.gather(None)


def _as_json(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), indent=2, ensure_ascii=False)


def begun_recipe(stage_dir: Path) -> Recipe | None:
    """The recipe of the run that a folder holds."""
    path = stage_dir / RECIPE_NAME
    return recipe_from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def check_unclaimed(stage_dir: Path, recipe: Recipe) -> None:
    """A folder made by another recipe is not touched. How ranks share the work may change, but not parallel.tensor."""
    path = stage_dir / RECIPE_NAME
    if path.exists():
        before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(_as_json(recipe))
        for values in (before, now):
            values["parallel"] = {"tensor": values.get("parallel", {}).get("tensor", 1)}
        if changed := ", ".join(key for key in now if key in before and before[key] != now[key]):
            raise RecipeError(
                f"{stage_dir}: holds a run with another {changed}; give another --out or delete that folder"
            )


def check_engine(stage_dir: Path, recipe: Recipe) -> None:
    """RecipeError where a run would go on with the other engine, which can't read its states."""
    uses = bool(recipe.parallel.deepspeed)
    other = stage_dir / (STATE_NAME if uses else deepspeed_engine.STATE_NAME)
    if any(other.glob("step-*")):
        raise RecipeError(
            f"{stage_dir}: began with{'out' if uses else ''} parallel.deepspeed, and its states can't be read with"
            f"{'' if uses else 'out'} it; go on as it began, or delete that folder"
        )


def check_shards(stage_dir: Path, loader: Loader) -> None:
    """DataError where the shards are not those that the stage began with: the order would be another."""
    path = stage_dir / SHARDS_NAME
    if path.exists() and path.read_text(encoding="utf-8") != loader.shards:
        raise DataError(
            f"{stage_dir}: began with other shards than lie in its data.split_dirs now (their names, sizes or rows "
            "differ): put those back, or delete that folder and train anew"
        )


def _note_stage(run_dir: Path, name: str) -> None:
    """Keep the order in which the stages ran in run.json, for the report."""
    path = run_dir / "run.json"
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.exists() else []
    if name not in stages:
        write_text(path, json.dumps({"stages": [*stages, name]}))


def train(
    model: QwenVL,
    head: DenseHead | None,
    loader: Loader | DenseLoader,
    recipe: Recipe,
    stage_dir: Path,
    device: str,
    ranks: Ranks = ALONE,
    log_to: Sequence[str] = (),
    watchers: Sequence[Watcher] = (),
) -> None:
    """The loop: accumulate, clip, step, log, save. Bit-exact on resume on one rank and the CPU.

    watchers are called before the first step too. Raises TrainingError when
    step after step has to be skipped.
    """
    torch.manual_seed(recipe.seed + ranks.data_rank)  # dropout, where there is any
    if recipe.lora is None:
        freeze(model, recipe.trains)
    if ranks.is_first:
        print(f"{recipe.name}: {recipe.about}\n{table(what_trains(model))}", flush=True)
    engine = build_engine(model, head, recipe, stage_dir, device, ranks)
    faults = Faults(stage_dir, recipe.optim, ranks)
    first_step = 0
    if found := engine.restore():
        first_step, values = found
        faults.norms.extend(values["norms"])
        loader.resume(values["loader"])
    batches = iter(loader)
    if first_step == 0:
        for watch in watchers:
            watch(0, model)
    model.train()
    with Telemetry(stage_dir, recipe, first_step, device, ranks, log_to) as telemetry:
        for step in range(first_step, recipe.steps):
            lr = lr_at(step, recipe.steps, recipe.optim)
            done = engine.step(batches, lr, partial(faults.judge, step))
            telemetry.step(step, lr, done.seen, done.norm, done.norms, done.fault)
            for watch in watchers:  # before the state: a run that goes on from it does not come here again
                watch(step + 1, model)
            if (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
                engine.save(step + 1, {"loader": _of_all(done.seen.loader_state, ranks), "norms": list(faults.norms)})
    engine.finish()
    model.eval()
    if isinstance(loader, Loader):
        counts = lost(_of_all(done.seen.loader_state, ranks))
        if ranks.is_first and any(counts):
            print(
                f"{recipe.name}: left out {counts[0]} times a sample longer than a row of {recipe.data.row_length} "
                f"tokens; {counts[1]} dialogues lost their last turns"
            )
    if head is not None and isinstance(loader, DenseLoader):
        (pixels, labels), _ = next(iter(loader))
        with fast_kernels(device, recipe.precision):
            features = model.vision(normalize(pixels.to(device)))
            named = head.accuracy(features, model.adapter(features), labels.to(device))
        print("patches named right: " + ", ".join(f"{name} {share:.0%}" for name, share in named.items()))


def build_engine(
    model: QwenVL, head: DenseHead | None, recipe: Recipe, stage_dir: Path, device: str, ranks: Ranks
) -> Engine:
    """What makes the steps of this recipe."""
    if recipe.parallel.deepspeed:
        return DeepSpeedEngine(model, recipe, stage_dir, device, ranks)
    return TorchEngine(model, head, recipe, stage_dir, device, ranks)


def _of_all(state: State, ranks: Ranks) -> State:
    """Where the streams of all ranks stand."""
    return {stream: place for part in ranks.gather(state) for stream, place in part.items()}
