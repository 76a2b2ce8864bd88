"""Runs of `qvl eval` as a report needs them: scores with their answers, in the order of the paper's tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl.evaluate.benchmarks import BY_NAME, Benchmark
from qvl.evaluate.predictions import PREDICTIONS_NAME, read_records
from qvl.evaluate.run import read_settings, rescore, score_records, scored_folders
from qvl.evaluate.scorers import Record, Scored

# The paper's tables, by the beginnings of benchmarks' names.
TABLES = {
    "Captions and questions about pictures (Table 4)": (
        "nocaps",
        "flickr30k",
        "vqav2",
        "okvqa",
        "gqa",
        "scienceqa",
        "vizwiz",
    ),
    "Text in pictures (Table 5)": ("textvqa", "docvqa", "chartqa", "ai2d", "ocrvqa"),
    "Referring expressions (Table 6)": ("refcoco", "grit"),
    "Following instructions (Table 7)": ("touchstone", "seed-bench", "mme"),
    "Knowledge, text alone": ("mmlu", "cmmlu", "ceval"),
    "The tiny world": ("world",),
}


@dataclass(frozen=True)
class Result:
    """One benchmark of a run. scored: None where a server or a judge has still to score."""

    name: str  # of its folder
    benchmark: Benchmark
    settings: dict[str, Any]
    scores: dict[str, Any]
    records: list[Record]
    scored: Scored | None


@dataclass(frozen=True)
class Run:
    """The benchmarks of one --out by their folders' names."""

    path: Path
    model: str
    results: dict[str, Result]


def collect(path: Path) -> Run:
    """A run, scored anew from its predictions. UsageError where the folder holds none."""
    results = {folder.name: _result(folder) for folder in scored_folders(path)}
    models = dict.fromkeys(result.settings["model"] for result in results.values())
    return Run(path, "; ".join(models), results)


def _result(folder: Path) -> Result:
    settings, scores = read_settings(folder), rescore(folder)
    benchmark = BY_NAME[settings["benchmark"]]
    records = read_records(folder / PREDICTIONS_NAME)
    return Result(folder.name, benchmark, settings, scores, records, score_records(benchmark, records, folder))


def tables(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Table -> the names of its benchmarks that any of the runs has, few-shot ones left out."""
    found: dict[str, list[str]] = {}
    for title, starts in TABLES.items():
        names = [
            name
            for run in runs
            for name, result in run.results.items()
            if result.benchmark.name.startswith(starts) and not result.settings["shots"]
        ]
        if names:
            found[title] = list(dict.fromkeys(names))
    return found


def benchmark_of(runs: Sequence[Run], name: str) -> Benchmark:
    """The benchmark that some run has under a folder's name."""
    return next(run.results[name].benchmark for run in runs if name in run.results)


def few_shot(run: Run) -> dict[str, dict[int, float]]:
    """Benchmark -> shots -> score, where more than one number of shots was asked."""
    curves: dict[str, dict[int, float]] = {}
    for result in run.results.values():
        if result.benchmark.exemplars is not None and "score" in result.scores:
            curves.setdefault(result.benchmark.name, {})[result.settings["shots"]] = result.scores["score"]
    return {name: dict(sorted(curve.items())) for name, curve in curves.items() if len(curve) > 1}


def by_language(result: Result) -> dict[str, float]:
    """Language -> the mean of its questions' values; the score itself where there is one language."""
    if result.scored is None:
        return {}
    languages = {record.id: record.language for record in result.records}
    if len(only := set(languages.values())) == 1:
        return {only.pop(): result.scored.score}
    values: dict[str, list[float]] = {}
    for unit, value in zip(result.scored.units, result.scored.values, strict=True):
        values.setdefault(languages[unit[0]], []).append(value)
    return {language: sum(found) / len(found) for language, found in sorted(values.items())}


def as_values(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What results.json holds."""
    return [
        {
            "run": str(run.path),
            "model": run.model,
            "benchmarks": {
                name: {
                    **result.scores,
                    "published": result.benchmark.published,
                    "shots": result.settings["shots"],
                    "by_language": by_language(result),
                }
                for name, result in run.results.items()
            },
        }
        for run in runs
    ]
