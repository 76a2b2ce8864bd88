"""One self-contained HTML page about a run: curves, scores after each stage, a gallery of held-out pictures."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl.data.sample import LANGUAGES
from qvl.errors import DataError, UsageError
from qvl.evaluate import gallery
from qvl.evaluate.curves import curve_svg
from qvl.evaluate.during import Curves, curves
from qvl.evaluate.scoring import MAIN_METRIC, TASKS
from qvl.evaluate.world import Scores, world_predictions, world_scores
from qvl.files import write_text
from qvl.pages import page

STYLE = """
td.guess { color: #7a8596 } tr.main td { font-weight: 600 } .curves { display: flex; flex-wrap: wrap; gap: 1rem }
"""


@dataclass(frozen=True)
class Stage:
    """A stage's folder: its recipe, its log, and its scores where it was evaluated."""

    name: str
    recipe: dict[str, Any]
    log: list[dict[str, Any]]
    scores: Scores  # empty where it was not
    benchmarks: Curves  # those that were asked as it trained


def write_report(run_dir: Path, split_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """RUN/report.html from what lies in the run's folder. UsageError when nothing was trained there."""
    stages = read_stages(run_dir)
    evaluated = [stage for stage in stages if stage.scores]
    parts = [_summary(stages), _curves(stages)]
    if evaluated:
        parts.append(_scores(evaluated))
        answered = {stage.name: world_predictions(run_dir / stage.name / "eval") for stage in evaluated}
        parts.append(gallery.gallery_html(split_dirs, answered))
    out = out or run_dir / "report.html"
    write_text(out, page("qvl: a run", "".join(parts), STYLE + gallery.STYLE))
    return out


def read_stages(run_dir: Path) -> list[Stage]:
    """The run's stages in the order in which they ran; one deleted or without a step yet is left out."""
    path = run_dir / "run.json"
    if not path.exists():
        raise UsageError(f"{run_dir}: no run here (run.json is missing); train first: qvl train RECIPE")
    names = [name for name in _read_json(path)["stages"] if (run_dir / name).is_dir()]
    stages = [_read_stage(run_dir / name, name) for name in names]
    if not (begun := [stage for stage in stages if stage.log]):
        raise UsageError(f"{run_dir}: no stage of this run has made a step yet")
    return begun


def _read_stage(folder: Path, name: str) -> Stage:
    recipe, log = _read_json(folder / "recipe.json"), read_log(folder / "log.jsonl")
    return Stage(name, recipe, log, world_scores(folder / "eval"), curves(folder))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The steps that were logged; empty before the first. A killed run may leave half a line at the end."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); run the stage again") from error
    return value


def _summary(stages: list[Stage]) -> str:
    rows = []
    for stage in stages:
        last, first = stage.log[-1], stage.log[0]
        seen = sum(line["samples"] for line in stage.log)
        rows.append(
            f"<tr><td>{html.escape(stage.name)}</td><td>{html.escape(stage.recipe['about'])}</td>"
            f"<td>{', '.join(stage.recipe['trains'])}</td>"
            + _number(f"{len(stage.log):,}")
            + _number(f"{seen:,}")
            + _number(f"{last['elapsed_s'] / 60:.1f}")
            + _number(f"{last['samples_per_s']:.0f}")
            + _number(f"{first['loss']:.2f} → {_recent(stage.log):.2f}")
            + "</tr>"
        )
    heads = ("stage", "what", "trains", "steps", "samples", "minutes", "samples/s", "loss")
    return f"<h1>A tiny Qwen-VL, from nothing</h1><h2>The run</h2>{_table(heads, rows)}"


def _recent(log: list[dict[str, Any]]) -> float:
    """Mean loss of the last tenth."""
    tail = log[-max(1, len(log) // 10) :]
    return float(sum(line["loss"] for line in tail) / len(tail))


def _curves(stages: list[Stage]) -> str:
    rows = []
    for field in ("loss", "lr", "grad_norm"):
        figures = [_curve(stage, field) for stage in stages if field in stage.log[0]]
        rows.append(f'<div class="curves">{"".join(figures)}</div>')
    asked = [(stage.name, name, points) for stage in stages for name, points in stage.benchmarks.items()]
    if asked:
        figures = [curve_svg(f"{stage}, {name}", _from_zero(points), "score") for stage, name, points in asked]
        rows.append(f'<h3>Benchmarks as training goes (Figure 6)</h3><div class="curves">{"".join(figures)}</div>')
    return (
        '<h2>Curves</h2><p class="note">Per step (thin) and the running mean (thick): the loss, the learning rate, '
        f"and the norm of the gradient before it is clipped.</p>{''.join(rows)}"
    )


def _from_zero(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Steps done -> the number of the last of them, as logs have it."""
    return [(step - 1, score) for step, score in points]


def _curve(stage: Stage, field: str) -> str:
    window = 1 if field == "lr" else max(1, len(stage.log) // 25)
    return curve_svg(stage.name, [(line["step"], line[field]) for line in stage.log], field, window)


def _scores(evaluated: list[Stage]) -> str:
    """One row per task and metric; of each stage a column per language, and what guessing gets."""
    rows = []
    for task in TASKS:
        groups = [[stage.scores.get(language, {}).get(task) for language in LANGUAGES] for stage in evaluated]
        metrics = dict.fromkeys(m for stage in groups for group in stage if group for m in group["scores"])
        for metric in metrics:
            cells = [_score_cell(group, "scores", metric) for stage in groups for group in stage]
            cells += [_score_cell(group, "best_constant", metric) for group in groups[-1]]
            cells += [_number(str(group["samples"]) if group else "") for group in groups[-1]]
            main = ' class="main"' if metric == MAIN_METRIC[task] else ""
            rows.append(f"<tr{main}><td>{task}</td><td>{metric}</td>{''.join(cells)}</tr>")
    columns = (*(f"after {stage.name}" for stage in evaluated), "best constant", "samples")
    heads = "".join(f'<th class="number" colspan="{len(LANGUAGES)}">{html.escape(c)}</th>' for c in columns)
    languages = "".join(f'<th class="number">{language}</th>' for _ in columns for language in LANGUAGES)
    return (
        '<h2>Scores on held-out data</h2><p class="note">The best constant is what the best fixed answer to '
        "everything would get: the score of guessing. Shares are in percent, cider is times 100; edit_distance and "
        "unparsed are better when lower.</p>"
        f"<table><thead><tr><th></th><th></th>{heads}</tr><tr><th>task</th><th>metric</th>{languages}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _score_cell(group: dict[str, Any] | None, kind: str, metric: str) -> str:
    value = group[kind].get(metric) if group else None
    style = "number guess" if kind == "best_constant" else "number"
    if value is None:
        return _number("", style)
    return _number(f"{value:.1f}" if metric == "cider" else f"{100 * value:.1f}", style)


def _table(heads: Sequence[str], rows: list[str]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(text: str, kind: str = "number") -> str:
    return f'<td class="{kind}">{html.escape(text)}</td>'
