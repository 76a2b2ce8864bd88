"""Two runs on the same questions: what differs, and whether by more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl.errors import DataError, UsageError
from qvl.evaluate.benchmarks import BY_NAME
from qvl.evaluate.predictions import PREDICTIONS_NAME, read_records
from qvl.evaluate.run import read_settings, score_records, scored_folders
from qvl.evaluate.scorers import Scored
from qvl.evaluate.uncertainty import Difference, paired

SURE = 0.05  # p below which a difference is called one


@dataclass(frozen=True)
class Comparison:
    """Scores of two runs on one benchmark; better, worse: units (questions, mostly) that b answers better or worse."""

    name: str
    a: float
    b: float
    difference: Difference
    better: int
    worse: int

    @property
    def verdict(self) -> str:
        if not self.better + self.worse:
            return "no difference"
        if self.difference.p >= SURE:
            return "may be chance"
        return "b is better" if self.difference.mean > 0 else "a is better"


def compare(a: Path, b: Path) -> list[Comparison]:
    """Every benchmark that both runs have. UsageError where there is none."""
    theirs = {folder.name: folder for folder in scored_folders(b)}
    pairs = [(folder, theirs[folder.name]) for folder in scored_folders(a) if folder.name in theirs]
    found = [one for pair in pairs if (one := _compare_one(*pair)) is not None]
    if not found:
        raise UsageError(f"{a} and {b} have no scored benchmark in common")
    return found


def _compare_one(a: Path, b: Path) -> Comparison | None:
    first, second = _scored(a), _scored(b)
    if first is None or second is None:
        return None
    if first.units != second.units:
        raise DataError(
            f"{a} and {b}: not the same questions ({len(first.units):,} and {len(second.units):,} scored); answer the "
            "same with both"
        )
    difference = paired(first.values, second.values, first.strata, first.weights)
    pairs = list(zip(first.values, second.values, strict=True))
    better, worse = sum(y > x for x, y in pairs), sum(y < x for x, y in pairs)
    return Comparison(a.name, first.score, second.score, difference, better, worse)


def _scored(folder: Path) -> Scored | None:
    benchmark = BY_NAME[read_settings(folder)["benchmark"]]
    return score_records(benchmark, read_records(folder / PREDICTIONS_NAME), folder)


def comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """For the terminal."""
    lines = [f"{'':22} {'a':>8} {'b':>8} {'b - a':>8}  95 % of resamples    p       better/worse"]
    for one in comparisons:
        low, high = one.difference.interval.low, one.difference.interval.high
        lines.append(
            f"{one.name:22} {one.a:8.2f} {one.b:8.2f} {one.difference.mean:+8.2f}  [{low:+7.2f}, {high:+7.2f}]  "
            f"{one.difference.p:6.4f}  {one.better:,}/{one.worse:,}  {one.verdict}"
        )
    return lines
