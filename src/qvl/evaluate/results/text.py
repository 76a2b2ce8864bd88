"""The report's tables, as rows of texts: Markdown and HTML show the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from qvl.evaluate.compare import Comparison
from qvl.evaluate.results.collect import Result, Run, benchmark_of, by_language, few_shot, tables
from qvl.evaluate.scorers import METRIC_NAMES

MODELS = ("Qwen-VL", "Qwen-VL-Chat")


@dataclass(frozen=True)
class Table:
    """A title, a line under it, heads and rows."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[str]]


def all_tables(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[Table]:
    """Scores beside the published ones, groups, languages, few-shot, and what two runs differ in."""
    found = [_scores(runs, title, names) for title, names in tables(runs).items()]
    found += [table for table in (_few_shot(runs), _languages(runs), _groups(runs)) if table.rows]
    if comparisons:
        found.insert(0, _comparison(comparisons))
    return found


def _scores(runs: Sequence[Run], title: str, names: Sequence[str]) -> Table:
    rows = []
    for name in names:
        benchmark = benchmark_of(runs, name)
        row = [name, benchmark.about, METRIC_NAMES.get(benchmark.metric, "the server's")]
        for run in runs:
            row += _cells(run.results.get(name))
        rows.append(row + [_number(benchmark.published.get(model)) for model in MODELS])
    heads = ["benchmark", "what", "metric"]
    for run in runs:
        heads += [run.path.name or str(run.path), "95 %", "questions", "unreadable"]
    note = "95 %: the middle of the scores of resampled questions. Unreadable answers count as wrong."
    return Table(title, note, heads + [f"{model}, published" for model in MODELS], rows)


def _cells(result: Result | None) -> list[str]:
    if result is None:
        return [""] * 4
    asked, of = result.scores["questions"], result.scores["of"]
    questions = f"{asked:,}" if asked == of else f"{asked:,} of {of:,}"
    if "score" not in result.scores:
        return ["waits", "", questions, ""]
    low, high = result.scores["interval"]
    return [_number(result.scores["score"]), f"{low:.1f}–{high:.1f}", questions, f"{result.scores['unparsed']:,}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _few_shot(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        for name, curve in few_shot(run).items():
            rows.append([run.path.name, name, ", ".join(f"{shots}: {score:.2f}" for shots, score in curve.items())])
    return Table(
        "Few-shot (Figure 4)",
        "Exemplars of the train split, by the question's id and the seed alone.",
        ["run", "benchmark", "shots: score"],
        rows,
    )


def _languages(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        for name, result in run.results.items():
            if split := by_language(result):
                rows.append([run.path.name, name, _number(split.get("en")), _number(split.get("zh"))])
    return Table("By language", "", ["run", "benchmark", "English", "Chinese"], rows)


def _groups(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        for name, result in run.results.items():
            for group, found in result.scores.get("groups", {}).items():
                rows.append([run.path.name, name, group, f"{found['samples']:,}", _number(found["score"])])
    return Table("By subtask, subject or type of question", "", ["run", "benchmark", "group", "units", "score"], rows)


def _comparison(comparisons: Sequence[Comparison]) -> Table:
    rows = [
        [
            one.name,
            _number(one.a),
            _number(one.b),
            f"{one.difference.mean:+.2f}",
            f"{one.difference.interval.low:+.2f} to {one.difference.interval.high:+.2f}",
            f"{one.difference.p:.4f}",
            f"{one.better:,} / {one.worse:,}",
            one.verdict,
        ]
        for one in comparisons
    ]
    heads = ["benchmark", "a", "b", "b − a", "95 %", "p", "better / worse", "verdict"]
    return Table("The two runs, question by question", "Paired bootstrap; p is two-sided.", heads, rows)


def markdown(title: str, lines: Sequence[str], found: Sequence[Table]) -> str:
    """The whole report but its pictures."""
    parts = [f"# {title}", *lines]
    for table in found:
        parts += [f"## {table.title}", *([table.note] if table.note else []), _markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rows = [table.heads, ["---"] * len(table.heads), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
