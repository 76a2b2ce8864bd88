"""The report's figures: the radar of the paper's Figure 1 and the few-shot curves of its Figure 4, as SVG."""

import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from qvl.errors import MissingDependencyError
from qvl.evaluate.benchmarks import BY_NAME
from qvl.evaluate.results.collect import Run, benchmark_of, few_shot, tables

COLOURS = ("#1f5fbf", "#e07b00", "#2e9e5b", "#a23bb5")
PUBLISHED_COLOUR = "#7a8596"
MIN_AXES = 3  # a radar of fewer is no picture
AXIS = 1.12  # the outermost ring over the best score


def require_matplotlib() -> None:
    """MissingDependencyError before anything is read, rather than after."""
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("qvl eval report draws with matplotlib: pip install 'qvl[report]'")


def radar(runs: Sequence[Run]) -> str:
    """Every benchmark of the paper an axis, from 0 to a little beyond the best score; "" where they are too few."""
    names = [
        name
        for group in tables(runs).values()
        for name in group
        if all(name in run.results and "score" in run.results[name].scores for run in runs)
        and benchmark_of(runs, name).source.own is False
    ]
    if len(names) < MIN_AXES:
        return ""
    lines = [(run.path.name, [run.results[name].scores["score"] for name in names]) for run in runs]
    for model in ("Qwen-VL", "Qwen-VL-Chat"):
        published = [benchmark_of(runs, name).published.get(model, math.nan) for name in names]
        if not all(map(math.isnan, published)):
            lines.append((f"{model}, published", published))
    best = [max(value for _, values in lines if not math.isnan(value := values[i])) for i in range(len(names))]
    figure = _figure(8.5, 7.0)
    axes = figure.add_subplot(projection="polar")
    angles = [2 * math.pi * i / len(names) for i in range(len(names))]
    for (label, values), colour in zip(lines, _colours(len(runs), len(lines)), strict=True):
        points = [value / (most * AXIS or 1.0) for value, most in zip(values, best, strict=True)]
        style = "--" if colour == PUBLISHED_COLOUR else "-"
        axes.plot(
            [*angles, angles[0]], [*points, points[0]], style, color=colour, label=label, marker="o", markersize=3
        )
    axes.set_xticks(angles, [f"{name}\n{most:.1f}" for name, most in zip(names, best, strict=True)], fontsize=8)
    axes.tick_params(axis="x", pad=16)
    axes.set_yticks([0.25, 0.5, 0.75], [""] * 3)
    axes.set_ylim(0, 1)
    figure.legend(loc="lower left", fontsize=8, frameon=False)
    return _svg(figure)


def _colours(runs: int, lines: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(runs)] + [PUBLISHED_COLOUR] * (lines - runs)


def few_shot_curves(runs: Sequence[Run]) -> str:
    """A panel for each benchmark that was asked with several numbers of shots; "" without one."""
    curves = {run.path.name: few_shot(run) for run in runs}
    names = list(dict.fromkeys(name for found in curves.values() for name in found))
    if not names:
        return ""
    figure = _figure(4.0 * len(names), 3.4)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        ticks: set[int] = set()
        for place, (label, found) in enumerate(curves.items()):
            if curve := found.get(name):
                axes.plot(
                    list(curve), list(curve.values()), marker="o", color=COLOURS[place % len(COLOURS)], label=label
                )
                ticks |= set(curve)
        published = {0: BY_NAME[name].published.get("Qwen-VL"), **BY_NAME[name].few_shot}
        known = {shots: score for shots, score in published.items() if score is not None}
        axes.plot(list(known), list(known.values()), "o--", color=PUBLISHED_COLOUR, label="Qwen-VL, published")
        axes.set_title(name)
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xticks(sorted(ticks | set(known)), [str(tick) for tick in sorted(ticks | set(known))])
        axes.minorticks_off()
        axes.set_xlabel("shots")
        axes.grid(axis="y", color="#e3e8ef")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
