"""What the HTML pages share: one self-contained file, one look, pictures inside with boxes drawn over them."""

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image as PILImage

from qvl.text.markup import GRID, Box, Content, Quad

STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", "WenQuanYi Zen Hei", sans-serif; margin: 2rem auto;
  max-width: 1080px; padding: 0 1rem; color: #1c2430; background: #fff }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d8dee8; padding-bottom: .3rem }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .7rem; border-bottom: 1px solid #e3e8ef }
th { text-align: left; font-weight: 600 } .note { color: #5b6675 }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
figure { margin: 0; font-size: 13px; overflow-wrap: anywhere }
.picture { position: relative; display: inline-block; line-height: 0 } .picture img { max-width: 100% }
.picture svg { position: absolute; left: 0; top: 0; width: 100%; height: 100% }
polygon { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2 }
.under { stroke: #000; stroke-width: 3.5; opacity: .55 } .model { stroke: #ff2d95 }
.asked { stroke: #ffd60a; stroke-width: 3 } .truth { stroke: #fff; stroke-dasharray: 5 4 }
"""


def page(title: str, body: str, style: str = "") -> str:
    """A whole page; body is HTML, style what it needs besides."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head><body>{body}</body></html>\n"
    )


def table_html(rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A head and its rows; texts: columns of text, the first one and then the last ones. The others are numbers."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    last = len(rows[0]) - texts
    kinds = [' class="number"' if 1 <= i <= last else "" for i in range(len(rows[0]))]
    body = ("".join(f"<td{k}>{html.escape(cell)}</td>" for k, cell in zip(kinds, row, strict=True)) for row in rows[1:])
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def jpeg_base64(picture: PILImage.Image, quality: int) -> str:
    """A picture as a page holds it, behind `data:image/jpeg;base64,`."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode()


def picture_html(picture: PILImage.Image, shapes: Iterable[str] = ()) -> str:
    """A picture under the shapes of `polygons`."""
    drawn = "".join(shapes)
    overlay = f'<svg viewBox="0 0 {GRID} {GRID}" preserveAspectRatio="none">{drawn}</svg>' if drawn else ""
    data = jpeg_base64(picture, quality=85)
    return f'<div class="picture"><img alt="" src="data:image/jpeg;base64,{data}">{overlay}</div>'


def polygons(content: Content, kind: str) -> Iterator[str]:
    """Every box and quad in its kind's line (model, asked, truth), over a dark one so that it shows on any picture."""
    for segment in content:
        if isinstance(segment, Box):
            x1, y1, x2, y2 = segment.as_tuple
            corners: tuple[int, ...] = (x1, y1, x2, y1, x2, y2, x1, y2)
        elif isinstance(segment, Quad):
            corners = segment.as_tuple
        else:
            continue
        points = " ".join(map(str, corners))
        yield f'<polygon class="under" points="{points}"/><polygon class="{kind}" points="{points}"/>'
