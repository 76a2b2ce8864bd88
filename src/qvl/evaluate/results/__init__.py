"""One page about runs of `qvl eval`: results.html, and the same without pictures as results.md and results.json."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from qvl.evaluate.compare import Comparison, compare
from qvl.evaluate.results import gallery
from qvl.evaluate.results.collect import Run, as_values, collect
from qvl.evaluate.results.plots import few_shot_curves, radar, require_matplotlib
from qvl.evaluate.results.text import Table, all_tables, markdown
from qvl.files import write_text
from qvl.pages import page

TITLE = "qvl: benchmarks"
PAGE_NAME, MARKDOWN_NAME, JSON_NAME = "results.html", "results.md", "results.json"
_STYLE = """
body { max-width: 1280px } .wide { overflow-x: auto } .figures svg { max-width: 100%; height: auto }
.wide td:nth-child(2) { min-width: 11em }
"""


def write_results(folders: Sequence[Path]) -> list[Path]:
    """The report of one run, or of several beside each other, into the first one's folder; two are compared question by
    question."""
    require_matplotlib()
    runs = [collect(folder) for folder in folders]
    comparisons = compare(folders[0], folders[1]) if len(folders) == 2 else []
    lines = [f"{'ab'[i] if len(runs) == 2 else i + 1}: {run.path}, {run.model}" for i, run in enumerate(runs)]
    found = all_tables(runs, comparisons)
    out = folders[0]
    values = {"runs": as_values(runs), "comparisons": [_as_value(one) for one in comparisons]}
    write_text(out / PAGE_NAME, page(TITLE, _body(runs, lines, found), gallery.STYLE + _STYLE))
    write_text(out / MARKDOWN_NAME, markdown(TITLE, lines, found))
    write_text(out / JSON_NAME, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return [out / PAGE_NAME, out / MARKDOWN_NAME, out / JSON_NAME]


def _as_value(one: Comparison) -> dict[str, object]:
    difference = one.difference
    return {
        "benchmark": one.name,
        "a": one.a,
        "b": one.b,
        "difference": difference.mean,
        "interval": [difference.interval.low, difference.interval.high],
        "p": difference.p,
        "better": one.better,
        "worse": one.worse,
    }


def _body(runs: Sequence[Run], lines: Sequence[str], found: Sequence[Table]) -> str:
    parts = [f"<h1>{TITLE}</h1>", *(f"<p>{html.escape(line)}</p>" for line in lines)]
    figures = [
        (title, svg)
        for title, svg in (
            ("All benchmarks (Figure 1): each axis ends a little beyond its best score", radar(runs)),
            ("Few-shot (Figure 4)", few_shot_curves(runs)),
        )
        if svg
    ]
    parts += [f'<h2>{html.escape(title)}</h2><div class="figures">{svg}</div>' for title, svg in figures]
    parts += [_table_html(table) for table in found]
    return "".join(parts) + "".join(gallery.gallery_html(list(run.results.values())) for run in runs[:1])


def _table_html(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.heads)
    rows = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f"<h2>{html.escape(table.title)}</h2>{note}"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _cell(text: str) -> str:
    number = text[:1].isdigit() or (text[:1] in "+-" and text[1:2].isdigit())
    return f'<td class="number">{html.escape(text)}</td>' if number else f"<td>{html.escape(text)}</td>"
