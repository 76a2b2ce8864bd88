"""Draws the README's two pictures from what the shipped weights really do: docs/images/overview.png and gallery.png.

python scripts/readme_pictures.py
"""

import html
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

import qvl
from qvl import images
from qvl.data.sample import LANGUAGES, Sample, Turn
from qvl.data.world.tasks import make_sample
from qvl.evaluate.gallery import STYLE as GALLERY_STYLE
from qvl.evaluate.gallery import figure_html
from qvl.explain.flow import answer_flow
from qvl.explain.flow_page import lit_queries
from qvl.explain.loss import LossTable, loss_table
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.pages import page, picture_html
from qvl.text.markup import Text, parse_markup
from qvl.text.prompts import caption_prefix

OUT = Path("docs/images")
TASKS = ("caption", "vqa", "referring", "ocr")
STYLE = """
body { max-width: none; width: 1180px; margin: 0; padding: 18px }
.row { display: flex; gap: 12px; align-items: stretch }
.step { flex: 1; background: #f5f7fa; border-radius: 8px; padding: 12px }
.step h3 { margin: 0 0 8px; font-size: 15px; white-space: nowrap }
.step p { margin: 8px 0 0; font-size: 13px; overflow-wrap: anywhere }
.arrow { align-self: center; font-size: 26px; color: #7a8494 } .picture img { border-radius: 4px }
.tokens td { padding: 9px 7px; font: 14px ui-monospace, monospace; border: 0 } .tokens { margin: 0 }
.bar { display: inline-block; height: .7em; background: #e07b6e }
"""
QUESTION = "Find the yellow house."


def overview(vl: QwenVLWithTokenizer) -> str:
    """A picture and a question, what the adapter's queries take, the answer, and a loss."""
    picture = Path("examples/picture.png")
    flow = answer_flow(vl.model, vl.tokenizer, picture, QUESTION)
    drawn = images.draw_boxes(flow.picture, parse_markup(flow.answer))
    said = html.escape(flow.answer)
    table = loss_table(vl.model, vl.tokenizer, _wrong_caption(picture))
    steps = [
        ("A picture and a question", picture_html(flow.picture.resize((224, 224))), f"“{QUESTION}”"),
        (
            "64 patches, 16 vectors",
            picture_html(lit_queries(flow.picture, flow.queries).resize((224, 224))),
            "Lit: what each query of the adapter takes.",
        ),
        ("The answer, with its box", picture_html(drawn.resize((224, 224))), said),
        (
            "Told “a red house”, it learns",
            _losses(table),
            f"Mean loss {table.mean:.2f}",
        ),
    ]
    made = [f"<div class='step'><h3>{name}</h3>{shown}<p>{text}</p></div>" for name, shown, text in steps]
    return page("qvl", f"<div class='row'>{'<div class=arrow>→</div>'.join(made)}</div>", STYLE)


def gallery(vl: QwenVLWithTokenizer) -> str:
    """The first held-out sample of each task and language, not chosen."""
    figures = []
    for task in TASKS:
        for language in LANGUAGES:
            sample = make_sample(7, "test", 0, task, language)
            turns = [(turn.role, turn.content) for turn in sample.turns]
            said = vl.answer(turns[:-1], task, sample.images)
            figures.append(figure_html(sample, {"model": {sample.id: said}}))
    return page(
        "qvl", f"<div class='gallery'>{''.join(figures)}</div>", GALLERY_STYLE + "body { margin: 0; padding: 14px }"
    )


def _wrong_caption(picture: Path) -> Sample:
    turns = (Turn("user", caption_prefix("en")), Turn("assistant", (Text("a red house"),)))
    return Sample("picture", "caption", "en", (picture.read_bytes(),), turns)


def _losses(table: LossTable) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(token.text.strip())}</td><td>{token.loss:.2f}</td>"
        f"<td><span class='bar' style='width:{5 * token.loss:.0f}px'></span></td>"
        f"<td>{'' if token.is_favourite else html.escape(token.favourite.strip())}</td></tr>"
        for token in table.supervised
    )
    return f"<table class='tokens'><tr><td>truth</td><td>loss</td><td></td><td>instead</td></tr>{rows}</table>"


def main() -> None:
    """Write both."""
    vl = qvl.load("src/qvl/assets/tiny")
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, made in (("overview", overview(vl)), ("gallery", gallery(vl))):
            file = Path(folder, f"{name}.html")
            file.write_text(made, encoding="utf-8")
            tab = browser.new_page(viewport={"width": 1216 if name == "overview" else 1010, "height": 300})
            tab.goto(file.as_uri())
            tab.screenshot(path=OUT / f"{name}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
