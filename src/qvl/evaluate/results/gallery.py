"""Pictures of a report with what was said of them: some right, some wrong, boxes drawn over them."""

import hashlib
import html
import math
from collections.abc import Sequence
from pathlib import Path

from qvl import images
from qvl.errors import QvlError
from qvl.evaluate import gallery
from qvl.evaluate.metrics.referring import answered_box
from qvl.evaluate.results.collect import Result
from qvl.evaluate.rows import Row
from qvl.evaluate.run import read_rows
from qvl.evaluate.scorers import Record, without_tags
from qvl.pages import picture_html, polygons
from qvl.text.markup import Content, box_from_pixels, from_json, parse_markup, plain_text

EACH = 4  # pictures of right and of wrong answers
MAX_TEXT = 240  # characters
STYLE = gallery.STYLE + ".wrong { color: #b3261e; font-weight: 600 } .true { display: block }"
LEGEND = (
    "The best and the worst answered, drawn by lot among equals. Boxes: "
    '<span class="swatch" style="color:#ff2d95">solid: the model</span> '
    '<span class="swatch" style="color:#fff">dashed: true</span> '
    '<span class="swatch" style="color:#ffd60a">yellow: asked about</span>.'
)


def gallery_html(results: Sequence[Result]) -> str:
    """Every benchmark that has pictures; one whose data is gone says so."""
    parts = [f'<h2>Samples</h2><p class="note">{LEGEND}</p>']
    for result in results:
        if result.scored is None or result.settings["shots"]:
            continue
        try:
            shown = _figures(result)
        except (QvlError, OSError) as error:
            shown = f'<p class="note">its pictures can\'t be shown: {html.escape(str(error))}</p>'
        if shown:
            parts.append(f"<h3>{html.escape(result.name)}</h3>{shown}")
    return "".join(parts) if len(parts) > 1 else ""


def _figures(result: Result) -> str:
    data = Path(result.settings["data"])
    rows = {row.id: row for row in read_rows(result.benchmark, result.benchmark.source, data)}
    chosen = _choose(result)
    parts = []
    for title, records in chosen.items():
        figures = "".join(_figure(rows[r.id], r, title) for r in records if r.id in rows and rows[r.id].pictures)
        if figures:
            parts.append(f'<p class="note">{title}</p><div class="gallery">{figures}</div>')
    return "".join(parts)


def _choose(result: Result) -> dict[str, list[Record]]:
    """The best and the worst by value, equals in the order of a hash of their ids."""
    assert result.scored is not None
    values = {unit[0]: value for unit, value in zip(result.scored.units, result.scored.values, strict=True)}
    known = [record for record in result.records if record.id in values]
    lot = {record.id: hashlib.sha256(record.id.encode()).digest() for record in known}
    best = sorted(known, key=lambda record: (-values[record.id], lot[record.id]))
    middle = max(values.values(), default=0.0) / 2
    worst = [record for record in reversed(best) if values[record.id] <= middle]
    return {
        "right": [record for record in best if values[record.id] > middle][:EACH],
        "wrong": worst[:EACH],
    }


def _figure(row: Row, record: Record, kind: str) -> str:
    """A question with its pictures, the answer, the truth; boxes on the last picture."""
    said, true, asked = _contents(row, record)
    shapes = [*polygons(asked, "asked"), *polygons(true, "truth"), *polygons(said, "model")]
    last = len(row.pictures) - 1
    pictures = [
        picture_html(
            images.load(picture).resize((gallery.PICTURE_SIDE, gallery.PICTURE_SIDE)), shapes if i == last else ()
        )
        for i, picture in enumerate(row.pictures)
    ]
    question = without_tags(record.question).strip()
    answer = record.text.strip() or "(nothing)"
    return (
        f"<figure>{''.join(pictures)}<figcaption>{_cut(question)}"
        f'<span class="said {kind}">{_cut(answer)}</span>'
        f'<span class="true">true: {_cut(_truth_text(record, true))}</span></figcaption></figure>'
    )


def _contents(row: Row, record: Record) -> tuple[Content, Content, Content]:
    """(said, true, asked about) as markup, for their boxes."""
    if row.turns:
        asked = row.turns[-2][1] if len(row.turns) > 1 else ()
        return parse_markup(record.answer), from_json(record.truth), asked
    if isinstance(record.truth, dict) and "box" in record.truth:
        width, height = record.truth["width"], record.truth["height"]
        return (
            _as_box(answered_box(record.text, width, height).tolist(), width, height),
            _as_box(record.truth["box"], width, height),
            (),
        )
    return (), (), ()


def _as_box(corners: Sequence[float], width: float, height: float) -> Content:
    """A box in pixels as markup; nothing where it has no area in the picture."""
    x1, y1, x2, y2 = corners
    if not any(corners) or not all(map(math.isfinite, corners)) or x1 > x2 or y1 > y2:
        return ()
    return (box_from_pixels((x1, y1, x2, y2), width, height),)


def _truth_text(record: Record, true: Content) -> str:
    if isinstance(record.truth, list) and record.truth and isinstance(record.truth[0], str):
        return "; ".join(dict.fromkeys(record.truth))
    if isinstance(record.truth, str):
        return record.truth
    if isinstance(record.truth, dict) and "gpt4_ha_answer" in record.truth:
        return str(record.truth["gpt4_ha_answer"])
    return plain_text(true) or "the dashed box"


def _cut(text: str) -> str:
    return html.escape(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…")
