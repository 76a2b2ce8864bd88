"""The way of a picture and a question through the model, as a page: pictures lit where the model looks."""

import html
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from PIL import ImageOps
from torch import Tensor

from qvl.explain.flow import PLACES, AnswerFlow, Look
from qvl.explain.flow_text import cost_note, cost_rows, shape_rows, words_text
from qvl.explain.flow_words import FLOW_WORDS
from qvl.explain.loss_text import shown
from qvl.files import write_text
from qvl.pages import page, picture_html, table_html

PICTURE_SIDE, LOOK_SIDE, QUERIES_SIDE = 360, 110, 1040
MOST_LOOKS = 64  # tokens of an answer that are shown
DARK = 0.22  # of a patch that nothing is taken from
STYLE = """
.token { font-family: ui-monospace, "Noto Sans Mono CJK SC", monospace; white-space: pre-wrap }
.share { display: inline-block; height: .7em; background: #7fb3e6; margin-right: .4em; vertical-align: baseline }
.looks td { vertical-align: middle }
"""


def write_flow_page(flow: AnswerFlow, out: Path, language: str) -> None:
    """Write the page."""
    words = FLOW_WORDS[language]
    picture = flow.picture.convert("RGB")
    small = picture.copy()
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    left = len(flow.looks) - MOST_LOOKS
    queries, patches = flow.queries.shape
    asked = f"{html.escape(flow.question)} <span class='note'>{words['says']}:</span> "
    sections = [
        f"<h1>{words['title']}</h1>{picture_html(small)}<p>{asked}",
        f"<span class='token'>{html.escape(flow.answer)}</span></p>",
        f"<h2>{words['shapes']}</h2>{_shapes(flow, words)}",
        f"<h2>{words['cost']}</h2>{table_html(list(cost_rows(flow, words)))}",
        f"<p class='note'>{cost_note(flow, words)}</p>",
        f"<h2>{words['queries']}</h2><p>{words['queries_note'].format(queries, patches)}</p>",
        picture_html(lit_queries(picture, flow.queries)),
        f"<h2>{words['answer_title']}</h2><p>{words['answer_note']}</p>{_looks(flow, picture, words)}",
        f"<p class='note'>{words['left'].format(left)}</p>" if left > 0 else "",
        f"<h3>{words['layers']}</h3><p>{words['layers_note']}</p>{_layers(flow, words)}",
    ]
    write_text(out, page(f"qvl: {words['title']}", "".join(sections), STYLE))


def lit(picture: PILImage.Image, patches: Tensor, side: int) -> PILImage.Image:
    """The picture, `side` long, lit by shares of its patches (P,): the strongest as it is, others darker."""
    small = ImageOps.contain(picture, (side, side))
    grid = math.isqrt(len(patches))
    light = (patches / patches.max().clamp(min=1e-12)).view(1, 1, grid, grid)
    mask = F.interpolate(light, size=(small.height, small.width), mode="nearest")[0, 0]
    bytes_ = ((DARK + (1 - DARK) * mask) * 255).to(torch.uint8).numpy()
    return PILImage.composite(small, PILImage.new("RGB", small.size), PILImage.fromarray(bytes_))


def lit_queries(picture: PILImage.Image, queries: Tensor) -> PILImage.Image:
    """The picture once for each query (Q, P), in a square in reading order."""
    across, gap = math.isqrt(len(queries)), 4
    side = QUERIES_SIDE // across - gap
    tiles = [lit(picture, row, side) for row in queries]
    width, height = tiles[0].width + gap, tiles[0].height + gap
    sheet = PILImage.new("RGB", (across * width, across * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % across * width, number // across * height))
    return sheet


def _shapes(flow: AnswerFlow, words: dict[str, str]) -> str:
    return table_html(shape_rows(flow, words), texts=2)


def _looks(flow: AnswerFlow, picture: PILImage.Image, words: dict[str, str]) -> str:
    heads = (words["token"], "", *(words[place] for place in PLACES), words["words"])
    head = "".join(f"<th>{one}</th>" for one in heads)
    rows = [_look(look, picture) for look in flow.looks[:MOST_LOOKS]]
    return f"<table class='looks'><tr>{head}</tr>{''.join(rows)}</table>"


def _look(look: Look, picture: PILImage.Image) -> str:
    cells = "".join(f"<td>{_bar(share)}</td>" for share in look.shares)
    return (
        f"<tr><td class='token'>{html.escape(shown(look.text))}</td>"
        f"<td>{picture_html(lit(picture, look.patches, LOOK_SIDE))}</td>{cells}"
        f"<td class='token'>{html.escape(words_text(look))}</td></tr>"
    )


def _layers(flow: AnswerFlow, words: dict[str, str]) -> str:
    head = "".join(f"<th>{one}</th>" for one in (words["layer"], *(words[place] for place in PLACES)))
    rows = [
        f"<tr><td class='number'>{number}</td>{''.join(f'<td>{_bar(share)}</td>' for share in shares)}</tr>"
        for number, shares in enumerate(flow.layers, 1)
    ]
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _bar(share: float) -> str:
    return f'<span class="share" style="width:{60 * share:.0f}px"></span>{share:.0%}'
