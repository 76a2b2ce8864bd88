"""Train a study's variants from the same start, and write what came of it."""

import json
from dataclasses import asdict
from pathlib import Path

from qvl.checkpoint.layout import CONFIG_NAME
from qvl.errors import UsageError
from qvl.evaluate.report import read_log
from qvl.explain.studies.ablations import Study
from qvl.explain.studies.page import study_html
from qvl.explain.studies.plot import require_matplotlib
from qvl.explain.studies.results import Results, Seconds
from qvl.explain.studies.seconds import time_steps
from qvl.explain.studies.verdict import Claim
from qvl.files import write_text
from qvl.train.recipe import load_recipe
from qvl.train.trainer import run_recipe

LOSSES_NAME, SECONDS_NAME, PLOT_NAME, PAGE_NAME = "losses.json", "seconds.json", "study.png", "study.html"
TIMED_ROUNDS = 15


def run_study(study: Study, recipe: Path, run_dir: Path, out: Path, seeds: int, steps: int | None) -> list[Claim]:
    """Every variant with every seed into a stage's folder under `out`; losses, seconds, plot and page beside them.

    The start is a run of the tiny recipe: its warm-ups and its world. What is finished is not run again. Returns what
    the paper says, beside what was measured. Raises UsageError where a warm-up is missing, RecipeError where `out`
    holds a study with other settings.
    """
    require_matplotlib()
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least 1")
    start = _start(recipe, run_dir) + ([] if steps is None else [f"steps={steps}"])
    losses: dict[str, list[list[float]]] = {name: [] for name in study.variants}
    for seed in range(1, seeds + 1):
        for name, changes in study.variants.items():
            run_name = f"{name.replace(' ', '-')}-seed-{seed}"
            stage_dir = run_recipe(recipe, [*start, *changes, f"seed={seed}", f"name={run_name}"], out)
            losses[name].append([record["loss"] for record in read_log(stage_dir / "log.jsonl")])
    write_text(out / LOSSES_NAME, json.dumps(losses))
    results = Results(losses, _seconds(study, recipe, start, out) if study.timed else {})
    study.draw(results, out / PLOT_NAME)
    claims = study.claims(results)
    write_text(out / PAGE_NAME, study_html(study, claims, results, (out / PLOT_NAME).read_bytes()))
    return claims


def _start(recipe: Path, run_dir: Path) -> list[str]:
    """Where the recipe's samples and first weights lie, as overrides: the study's own folder holds neither."""
    base = load_recipe(recipe)
    for stage in base.init_from.values():
        if not (run_dir / stage / "checkpoint" / CONFIG_NAME).exists():
            raise UsageError(
                f"{run_dir}: no finished {stage} here, from which a study starts: `make demo` makes runs/tiny; or "
                f"qvl train recipes/tiny/{stage}.toml --out {run_dir}"
            )
    splits = [str((run_dir / split).resolve()) for split in base.data.split_dirs]
    donors = {part: str((run_dir / stage).resolve()) for part, stage in base.init_from.items()}
    return [f"data.split_dirs={json.dumps(splits)}", *(f"init_from.{p}={json.dumps(d)}" for p, d in donors.items())]


def _seconds(study: Study, recipe: Path, start: list[str], out: Path) -> dict[str, Seconds]:
    """Measured once, and kept."""
    path = out / SECONDS_NAME
    if not path.exists():
        recipes = {name: load_recipe(recipe, [*start, *changes]) for name, changes in study.variants.items()}
        measured = time_steps(recipes, out, TIMED_ROUNDS)
        write_text(path, json.dumps({name: asdict(seconds) for name, seconds in measured.items()}))
    return {name: Seconds(**values) for name, values in json.loads(path.read_text(encoding="utf-8")).items()}
