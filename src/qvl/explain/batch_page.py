"""A training step's batches as a page: the rows as bars, the samples token by token."""

import html
from pathlib import Path

from qvl.explain.batch import BatchRow, StepView
from qvl.explain.batch_text import summary, task_rows
from qvl.explain.view import STYLE as SAMPLE_STYLE
from qvl.explain.view import sample_html
from qvl.files import write_text
from qvl.pages import page, table_html
from qvl.train.stage import model_config

STYLE = (
    SAMPLE_STYLE
    + """
.row { display: flex; height: 26px; margin: 3px 0 }
.row, .key .rest { background: repeating-linear-gradient(45deg, #f6d9d6 0 4px, #fff 4px 8px) }
.piece { display: flex; border-right: 2px solid #1c2430; box-sizing: border-box; min-width: 0 }
.piece i { display: block; height: 100% } .pixels { background: #b9c7f5 } .given { background: #dfe4ec }
.learnt { background: #4fae6d } .key i { display: inline-block; width: 1em; height: .8em; margin: 0 .3em 0 1em }
"""
)
KEY = (
    "<p class='note key'>A bar is a row, its parts the samples:<i class='pixels'></i>places of a picture"
    "<i class='given'></i>text that is given<i class='learnt'></i>text that carries loss<i class='rest'></i>wasted</p>"
)


def write_step_page(view: StepView, out: Path) -> None:
    """Write the page."""
    recipe, tokenizer = view.traced.recipe, view.traced.tokenizer
    queries = model_config(recipe, tokenizer).vision.num_queries
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in summary(view))
    bars = "".join(_bar(row, number) for number, row in enumerate(view.rows, 1))
    articles = "".join(
        f"<div id='{number}-{place}'>{sample_html(piece.sample, tokenizer, queries, recipe.data.row_length)}</div>"
        for number, row in enumerate(view.rows, 1)
        for place, piece in enumerate(row.pieces)
    )
    body = f"<h1>A training step</h1>{notes}{table_html(task_rows(view))}{KEY}{bars}<h2>The samples</h2>{articles}"
    write_text(out, page(f"qvl: step {view.step}", body, STYLE))


def _bar(row: BatchRow, number: int) -> str:
    made = []
    for place, piece in enumerate(row.pieces):
        given = piece.length - piece.picture - piece.supervised
        parts = (("pixels", piece.picture), ("given", given), ("learnt", piece.supervised))
        inner = "".join(f"<i class='{kind}' style='flex:{size}'></i>" for kind, size in parts if size)
        label = html.escape(f"{piece.sample.task}, {piece.length} tokens: {piece.sample.id}")
        width = 100 * piece.length / row.width
        made.append(
            f"<a class='piece' href='#{number}-{place}' title=\"{label}\" style='width:{width:.3f}%'>{inner}</a>"
        )
    return f"<div class='row'>{''.join(made)}</div>"
