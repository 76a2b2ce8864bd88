"""The loss table as a page: one file, the picture with its boxes, a row for each token."""

import html
from pathlib import Path

from qvl import images
from qvl.explain.loss import LossTable, TokenLoss
from qvl.explain.loss_text import favourite_text, shown, summary
from qvl.explain.words import WORDS
from qvl.files import write_text
from qvl.pages import page, picture_html, polygons

PICTURE_SIDE = 480
STYLE = """
.token { font-family: ui-monospace, "Noto Sans Mono CJK SC", monospace; white-space: pre }
tr.right .token { color: #14683a } tr.wrong .token { color: #a3241c } tr.wrong { background: #fdf1f0 }
tr.skipped td { color: #7a8494; font-size: 13px; background: #f5f7fa }
.share { white-space: nowrap }
.bar { display: inline-block; height: .7em; background: #7fb3e6; margin-right: .4em; vertical-align: baseline }
.said { font-family: ui-monospace, "Noto Sans Mono CJK SC", monospace; overflow-wrap: anywhere; white-space: pre-wrap }
.said .other { background: #fbd9d6 } .sum { font-size: 1.1rem; font-weight: 600 }
"""


def write_loss_page(table: LossTable, out: Path, language: str) -> None:
    """Write the page."""
    words = WORDS[language]
    names = ("place", "true", "counts", "probability", "favourite", "loss")
    head = "".join(f"<th>{html.escape(words[name])}</th>" for name in names)
    sums, *rest = summary(table, language)
    lines = [_said(table, words) if line.startswith(words["said"]) else f"<p>{html.escape(line)}</p>" for line in rest]
    body = (
        f"<h1>{html.escape(words['title'])}</h1><p class='note'>{html.escape(table.sample.id)}, {table.sample.task}</p>"
        f"{''.join(_pictures(table))}<p>{html.escape(words['forced'])}</p><p class='sum'>{html.escape(sums)}</p>"
        f"{''.join(lines)}"
        f"<table><tr>{head}</tr>{''.join(_rows(table, words))}</table>"
    )
    write_text(out, page(f"qvl: {words['title']}", body, STYLE))


def _pictures(table: LossTable) -> list[str]:
    sample = table.sample
    shapes = [shape for turn in sample.turns for shape in polygons(turn.content, "truth")]
    made = []
    for data in sample.images:
        picture = images.load(data)
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        made.append(picture_html(picture, shapes if len(sample.images) == 1 else ()))
    return made


def _said(table: LossTable, words: dict[str, str]) -> str:
    kept, other = (
        html.escape("".join(tokens))
        for tokens in (table.said_tokens[: table.parted], table.said_tokens[table.parted :])
    )
    return f"<p>{html.escape(words['said'])}: <span class='said'>{kept}<span class='other'>{other}</span></span></p>"


def _rows(table: LossTable, words: dict[str, str]) -> list[str]:
    rows = []
    for why, tokens in table.runs():
        if why is None:
            rows += [_row(token, words) for token in tokens]
        else:
            said = html.escape(words["skipped"].format(len(tokens), words[why]))
            text = html.escape(shown("".join(token.text for token in tokens if token.why != "image")))
            rows.append(f'<tr class="skipped"><td colspan="6">{said} <span class="token">{text[:400]}</span></td></tr>')
    return rows


def _row(token: TokenLoss, words: dict[str, str]) -> str:
    bar = f'<span class="bar" style="width:{80 * token.probability:.0f}px"></span>'
    return (
        f'<tr class="{"right" if token.is_favourite else "wrong"}"><td class="number">{token.place}</td>'
        f'<td class="token">{html.escape(shown(token.text))}</td>'
        f"<td>{html.escape(words['yes'])}: {html.escape(words[token.why])}</td>"
        f'<td class="share">{bar}{token.probability:.3f}</td>'
        f'<td class="token">{html.escape(favourite_text(token, words))}</td>'
        f'<td class="number">{token.loss:.3f}</td></tr>'
    )
