"""A study's figure: its curves, its losses seed by seed, its seconds beside the paper's."""

from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any

from qvl.errors import MissingDependencyError
from qvl.evaluate.curves import smooth
from qvl.explain.studies.results import END, Results
from qvl.files import replacing

SMOOTHED = 10  # steps that a point of a curve is the mean of
COLOURS = ("#1f5fbf", "#e07b00", "#2e9e5b", "#a23bb5")
# Table 10: seconds per iteration; the sizes of our pictures stand for 448 and 896.
PAPER_SECONDS = {"112 window": 9, "112 global": 10, "224 window": 25, "224 global": 60}


def require_matplotlib() -> None:
    """MissingDependencyError before anything is trained, rather than after."""
    if find_spec("matplotlib") is None:
        raise MissingDependencyError("qvl study draws with matplotlib: pip install 'qvl[report]'")


def draw_queries(results: Results, path: Path) -> None:
    """As the paper's Figure 7: the first steps and the later ones; and where each seed ended."""
    figure, (first, later, ends) = _figure(3)
    steps = len(next(iter(results.losses.values()))[0])
    begins = max(1, steps // 4)
    _curves(first, results, 0, begins, "The first quarter of the steps", smoothed=1)
    _curves(later, results, begins, steps, "The other three quarters")
    _ends(ends, results)
    _save(figure, path)


def draw_attention(results: Results, path: Path) -> None:
    """As the paper's Figure 8, where each seed ended, and the seconds of Table 10 beside ours."""
    figure, (curves, ends, seconds) = _figure(3)
    _curves(curves, results, 0, len(next(iter(results.losses.values()))[0]), "Loss")
    _ends(ends, results)
    _seconds(seconds, results)
    _save(figure, path)


def _figure(panels: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels)
    for ax in axes:
        ax.grid(axis="y", color="#e3e8ef")
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curves(axes: Any, results: Results, first: int, last: int, title: str, smoothed: int = SMOOTHED) -> None:
    """The mean over seeds, over a band from the lowest to the highest seed."""
    places = range(first + 1, last + 1)
    for colour, (name, curves) in zip(COLOURS, results.losses.items(), strict=True):
        by_step = [smooth_all[first:last] for smooth_all in (smooth(curve, smoothed) for curve in curves)]
        values = list(zip(*by_step, strict=True))
        axes.fill_between(places, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15, lw=0)
        axes.plot(places, [fmean(v) for v in values], color=colour, lw=1.8, label=name)
    mean = f", mean of {smoothed} steps" if smoothed > 1 else ""
    axes.set(title=title, xlabel="step", ylabel=f"training loss{mean}")
    axes.legend(frameon=False)


def _ends(axes: Any, results: Results) -> None:
    """A dot for each seed, joined across the variants, and a bar at the mean."""
    names = list(results.losses)
    ends = [results.ends(name) for name in names]
    for by_variant in zip(*ends, strict=True):
        axes.plot(names, by_variant, "o-", color="#8a94a3", lw=0.8, ms=5)
    for place, (colour, values) in enumerate(zip(COLOURS, ends, strict=True)):
        axes.hlines(fmean(values), place - 0.3, place + 0.3, color=colour, lw=3)
        axes.annotate(f"{fmean(values):.3f}", (place + 0.08, fmean(values)), (0, 5), textcoords="offset points")
    axes.set(title=f"Loss over the last {END:.0%} of the steps", xlim=(-0.5, len(names) - 0.5))
    axes.set_ylabel("training loss; a grey line is a seed")


def _seconds(axes: Any, results: Results) -> None:
    """Both machines' seconds over those of the first variant."""
    ours = {name: median(seconds.cpu) for name, seconds in results.seconds.items()}
    for shift, values, colour, label in (
        (-0.2, ours, "#1f5fbf", "here, CPU seconds"),
        (0.2, PAPER_SECONDS, "#c9ced6", "the paper's 448 and 896 pixels"),
    ):
        heights = [values[name] / values["112 window"] for name in ours]
        bars = axes.bar([place + shift for place in range(len(ours))], heights, 0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{values[name]:.3g} s" for name in ours], fontsize=8, padding=2)
    axes.set_xticks(range(len(ours)), list(ours))
    axes.set(title="Seconds per step (median)", ylabel="times the first one's")
    axes.legend(frameon=False)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)
