"""The user's DeepSpeed JSON and a recipe -> what DeepSpeed is given, or an error where the two disagree.

"auto" is the recipe's value, as in the files that the Qwen-VL and transformers projects pass around. A recipe is
complete: nothing in the JSON may change what is learnt, only how ranks share the work.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qvl.errors import RecipeError
from qvl.model.config import QwenVLConfig
from qvl.train.recipe import Recipe

STAGES = (2, 3)
AUTO = "auto"
# Sections that are taken as they are, beside those that are checked or filled here.
PASSED_ON = (
    "zero_optimization",
    "communication_data_type",
    "comms_logger",
    "dump_state",
    "memory_breakdown",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
)


def deepspeed_settings(path: Path, recipe: Recipe, config: QwenVLConfig, data_ranks: int) -> dict[str, Any]:
    """Complete, without "auto". RecipeError names a key that contradicts the recipe, or that can't be obeyed."""
    given = _read(path)
    own = _own(recipe, data_ranks)
    schedule = given.pop("scheduler", None) or {}
    _check_optimizer(path, given.pop("optimizer", None) or {}, recipe)
    if any(value != AUTO for value in schedule.get("params", {}).values()):
        raise RecipeError(f'{path}: scheduler: the recipe\'s [optim] has the schedule; write "auto", or leave it out')
    for name in given:
        if name not in PASSED_ON and name not in own:
            raise RecipeError(f"{path}: {name} is not known here and would change the training; take it out")
    for name, value in own.items():
        said = given.get(name, AUTO)
        told, ours = (said.get("enabled", AUTO), value["enabled"]) if isinstance(value, dict) else (said, value)
        if told not in (AUTO, ours):
            key = f"{name}.enabled" if isinstance(value, dict) else name
            raise RecipeError(f'{path}: {key} = {json.dumps(told)}, but by the recipe it is {ours}; write "auto"')
    zero = _zero(path, given.get("zero_optimization"), config)
    return {
        "zero_force_ds_cpu_optimizer": False,  # the optimizer is ours
        **{name: value for name, value in given.items() if name in PASSED_ON},
        **own,
        "zero_optimization": zero,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"parallel.deepspeed = {str(path)!r}: no such file") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: no JSON of DeepSpeed's settings: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: no JSON of DeepSpeed's settings: a table is expected")
    return values


def _own(recipe: Recipe, data_ranks: int) -> dict[str, Any]:
    """What follows from the recipe."""
    rows, batches = recipe.data.batch_rows, recipe.batches_per_step
    return {
        "train_batch_size": rows * batches,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": batches // data_ranks,
        "gradient_clipping": recipe.optim.grad_clip,
        "bf16": {"enabled": recipe.precision == "bf16"},
        "fp16": {"enabled": False},
    }


def _check_optimizer(path: Path, given: dict[str, Any], recipe: Recipe) -> None:
    optim = recipe.optim
    if given.get("type", "AdamW") not in ("Adam", "AdamW"):
        raise RecipeError(f'{path}: optimizer.type = "{given["type"]}", but by the recipe it is AdamW')
    own = {"lr": optim.peak_lr, "betas": list(optim.betas), "eps": optim.eps, "weight_decay": optim.weight_decay}
    for name, said in given.get("params", {}).items():
        if said not in (AUTO, own.get(name)):
            ours = f"by the recipe it is {own[name]}" if name in own else "the recipe knows no such value"
            raise RecipeError(f'{path}: optimizer.params.{name} = {json.dumps(said)}, but {ours}; write "auto"')


def _zero(path: Path, given: Any, config: QwenVLConfig) -> dict[str, Any]:
    """With buckets of transformers' usual sizes where "auto" leaves them open."""
    if not isinstance(given, dict) or given.get("stage") not in STAGES:
        stage = given.get("stage") if isinstance(given, dict) else None
        raise RecipeError(f"{path}: zero_optimization.stage = {json.dumps(stage)}: 2 or 3")
    hidden = config.language.hidden_size
    sizes = {
        "reduce_bucket_size": hidden**2,
        "allgather_bucket_size": hidden**2,
        "stage3_prefetch_bucket_size": int(0.9 * hidden**2),
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    filled = {name: sizes.get(name, value) if value == AUTO else value for name, value in given.items()}
    for name in _open(filled, "zero_optimization"):
        raise RecipeError(f'{path}: {name} = "auto": give a value')
    return filled


def _open(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        if value == AUTO:
            yield f"{prefix}.{name}"
        elif isinstance(value, dict):
            yield from _open(value, f"{prefix}.{name}")
