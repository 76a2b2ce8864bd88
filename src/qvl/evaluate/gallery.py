"""Held-out pictures as HTML: what the model said beside what is true, boxes drawn over the picture."""

import html
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from qvl import images
from qvl.data.sample import LANGUAGES, Sample, read_split
from qvl.evaluate.metrics.grounding import iou
from qvl.evaluate.scoring import MAIN_METRIC, TASKS, first_box, score
from qvl.generate.chat import picture_meant
from qvl.pages import picture_html, polygons
from qvl.text.markup import Content, Ref, Text

PER_LANGUAGE = 4  # pictures of each task
PICTURE_SIDE = 224
STYLE = """
.gallery { display: flex; flex-wrap: wrap; gap: 1.2rem 1rem } figure { width: 224px }
.picture { margin-bottom: .3rem } .picture img, .picture svg { border-radius: 4px }
.said { display: block } .right { color: #1b7f3b; font-weight: 600 }
.true, .stage { color: #5b6675 } .swatch { padding: 0 .5em; border-radius: 3px; background: #3c4654 }
"""
LEGEND = (
    "The first of the split, not chosen. Boxes: "
    '<span class="swatch" style="color:#ff2d95">solid: the model</span> '
    '<span class="swatch" style="color:#fff">dashed: true</span> '
    '<span class="swatch" style="color:#ffd60a">yellow: asked about</span>. Right answers are green.'
)

Predictions = dict[str, Content]  # sample id -> what was said


def gallery_html(split_dirs: Sequence[Path], by_stage: dict[str, Predictions]) -> str:
    """Pictures by task that the last stage of `by_stage` answered; boxes are the last stage's, texts everyone's."""
    last = list(by_stage)[-1]
    chosen = _choose(split_dirs, by_stage[last])
    parts = [f'<h2>Held-out pictures after {html.escape(last)}</h2><p class="note">{LEGEND}</p>']
    for task in TASKS:
        shown = [sample for language in LANGUAGES for sample in chosen[task, language]]
        if shown:
            figures = "".join(figure_html(sample, by_stage) for sample in shown)
            parts.append(f'<h3>{task}</h3><div class="gallery">{figures}</div>')
    return "".join(parts)


def _choose(split_dirs: Sequence[Path], predictions: Predictions) -> dict[tuple[str, str], list[Sample]]:
    chosen: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for split_dir in split_dirs:
        for sample in read_split(split_dir):
            group = chosen[sample.task, sample.language]
            if sample.id in predictions and sample.images and len(group) < PER_LANGUAGE:
                group.append(sample)
    return chosen


def figure_html(sample: Sample, by_stage: dict[str, Predictions]) -> str:
    """One sample: its pictures (boxes on the one asked about), the question, what each stage said, the truth."""
    reference = sample.turns[-1].content
    last = list(by_stage)[-1]
    asked = asked_content(sample)
    shapes = [*polygons(asked, "asked"), *polygons(reference, "truth"), *polygons(by_stage[last][sample.id], "model")]
    meant = picture_meant(asked, len(sample.images))
    pictures = [
        picture_html(images.load(data).resize((PICTURE_SIDE, PICTURE_SIDE)), shapes if i == meant else ())
        for i, data in enumerate(sample.images)
    ]
    said = "".join(
        f'<span class="said {_verdict(sample.task, told, reference)}"><span class="stage">{html.escape(stage)}:</span> '
        f"{_said(told, reference)}</span>"
        for stage, predictions in by_stage.items()
        if (told := predictions.get(sample.id)) is not None
    )
    return (
        f"<figure>{''.join(pictures)}<figcaption>{_words(asked)}{said}"
        f'<span class="said true">true: {_words(reference) or "the dashed box"}</span></figcaption></figure>'
    )


def asked_content(sample: Sample) -> Content:
    """The content of the turn before the answer."""
    return sample.turns[-2].content if len(sample.turns) > 1 else ()


def _said(prediction: Content, reference: Content) -> str:
    """The words; for an answer that is a box, how well it fits."""
    if words := _words(prediction):
        return words
    box, true = first_box(prediction), first_box(reference)
    return f"IoU {iou(box, true):.2f}" if box and true else "(nothing)"


def _words(content: Content) -> str:
    """Texts and phrases, boxes left out since they are drawn."""
    parts = [
        f"<b>{html.escape(s.text)}</b> " if isinstance(s, Ref) else html.escape(s.text)
        for s in content
        if isinstance(s, Text | Ref)
    ]
    return "".join(parts).strip()


def _verdict(task: str, prediction: Content, reference: Content) -> str:
    """Right by the task's main metric; captions, whose metric is of the whole set, by their words."""
    metric = MAIN_METRIC[task] if MAIN_METRIC[task] != "cider" else "exact_match"
    return "right" if score(task, [prediction], [reference])[metric] == 1 else ""
