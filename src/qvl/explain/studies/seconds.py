"""How long a training step of each variant takes, when they take turns."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qvl.explain.studies.results import Seconds
from qvl.train.measure import token_measure
from qvl.train.optim import build_optimizers, freeze, set_lr
from qvl.train.recipe import Recipe
from qvl.train.stage import build_loader, initial_model, tokenizer_of

WARM_ROUNDS = 2


def time_steps(recipes: Mapping[str, Recipe], run_dir: Path, rounds: int) -> dict[str, Seconds]:
    """Forward, backward and optimizer of one step on a batch that lies ready.

    In each round every variant makes one step, so that what else the machine does hits all alike; which one begins
    changes from round to round.
    """
    steps = {name: _step_of(recipe, run_dir) for name, recipe in recipes.items()}
    seconds = {name: Seconds([], []) for name in recipes}
    names = list(recipes)
    for number in range(WARM_ROUNDS + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name]()
            if number >= WARM_ROUNDS:
                seconds[name].wall.append(time.perf_counter() - wall)
                seconds[name].cpu.append(time.process_time() - cpu)
    return seconds


def _step_of(recipe: Recipe, run_dir: Path) -> Callable[[], None]:
    """A training step that may be made again and again: at a rate of zero, so that the weights stay."""
    tokenizer = tokenizer_of(recipe)
    model = initial_model(recipe, run_dir, tokenizer).train()
    freeze(model, recipe.trains)
    batch: Any = next(iter(build_loader(recipe, run_dir, model.config, tokenizer)))[0]
    measure = token_measure(model, recipe, "cpu")
    optimizers = build_optimizers(model, recipe.optim)
    set_lr(optimizers, 0.0)

    def step() -> None:
        measure(batch)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step
