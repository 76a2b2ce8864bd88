"""Samples as a trainer sees them: the picture with its boxes, and every token with whether it carries loss."""

import html
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

from qvl import images
from qvl.data.lint import lint
from qvl.data.sample import Sample, read_split
from qvl.errors import ImageError, UsageError
from qvl.files import write_text
from qvl.pages import page, picture_html, polygons
from qvl.text.render import Rendered, render
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer

PICTURE_SIDE = 560  # pixels of the longer side on the page
STYLE = """
body { max-width: 1180px }
article { border-top: 1px solid #d8dee8; padding: 1.2rem 0; display: grid;
  grid-template-columns: 570px 1fr; gap: 1.2rem }
h2 { font-size: 1rem; margin: 0 0 .4rem; border: 0; padding: 0; overflow-wrap: anywhere } .note { font-size: 13px }
.picture { margin: 0 .5rem .5rem 0 }
.tokens { font-family: ui-monospace, "Noto Sans Mono CJK SC", monospace; font-size: 13px; line-height: 1.9;
  overflow-wrap: anywhere; white-space: pre-wrap }
.tokens span { border-radius: 3px; padding: .1rem 0; margin-right: 1px; background: #eef1f5 }
.tokens .loss { background: #c9ecd3 } .tokens .special { color: #8a3ffc; font-weight: 600 }
.problem { color: #b3261e } dl { margin: .5rem 0; font-size: 13px }
dt { float: left; margin-right: .5em; color: #5b6675 }
dd { margin: 0; overflow-wrap: anywhere }
"""


def write_view(
    split_dir: Path,
    out: Path,
    tokenizer: Tokenizer,
    num_image_tokens: int,
    *,
    limit: int,
    max_length: int,
    task: str | None,
) -> int:
    """A page of the first `limit` samples (of one task, if given) of a split; how many it shows."""
    samples = (s for s in read_split(split_dir) if task in (None, s.task))
    articles = [sample_html(s, tokenizer, num_image_tokens, max_length) for s in islice(samples, limit)]
    if not articles:
        raise UsageError(f"{split_dir}: no sample of task {task!r} here" if task else f"limit {limit}: nothing to show")
    legend = (
        '<p class="note">Tokens: <span class="tokens"><span class="loss">carries loss</span> <span>does not</span> '
        '<span class="special">special</span></span>; the place of each is in its tooltip. '
        f"An image takes {num_image_tokens} places. Boxes: answers pink, questions yellow.</p>"
    )
    write_text(out, page("qvl: samples", f"<h1>{html.escape(str(split_dir))}</h1>{legend}{''.join(articles)}", STYLE))
    return len(articles)


def sample_html(sample: Sample, tokenizer: Tokenizer, num_image_tokens: int, max_length: int) -> str:
    """One sample: pictures, problems, tokens, provenance."""
    turns = [(turn.role, turn.content) for turn in sample.turns]
    rendered = render(turns, sample.task, tokenizer, num_image_tokens)
    if rendered is None:
        counts, tokens = "an unfinished dialogue: nothing to learn", ""
    else:
        supervised = sum(label != IGNORE_INDEX for label in rendered.labels)
        counts = f"{len(rendered.input_ids)} tokens, {supervised} with loss, {len(rendered.image_indices)} images"
        tokens = f'<div class="tokens">{"".join(_tokens(rendered, tokenizer))}</div>'
    problems = lint(sample)
    if rendered is not None and len(rendered.input_ids) > max_length:
        problems.append(f"length: longer than a sequence of {max_length} tokens")
    faults = "".join(f'<p class="problem">{html.escape(problem)}</p>' for problem in problems)
    origin = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in sample.provenance.items())
    pictures = "".join(_picture(sample, index) for index in range(len(sample.images)))
    return (
        f'<article><div>{pictures}</div><div><h2>{html.escape(sample.id)}</h2><p class="note">'
        f"{html.escape(sample.task)}, {html.escape(sample.language)}: {counts}</p>{faults}{tokens}<dl>{origin}</dl>"
        "</div></article>"
    )


def _tokens(rendered: Rendered, tokenizer: Tokenizer) -> Iterator[str]:
    """A span per token; a run of image places is one span."""
    place = 0
    pairs = zip(rendered.input_ids, rendered.labels, strict=True)
    pad = tokenizer.special.img_pad
    for is_pad, run in groupby(pairs, key=lambda pair: pair[0] == pad):
        items = list(run)
        if is_pad:
            last = place + len(items) - 1
            yield f'<span class="special" title="{place} to {last}">&lt;imgpad&gt; × {len(items)}</span>'
        else:
            for number, (token_id, label) in enumerate(items, place):
                yield _token(token_id, label != IGNORE_INDEX, number, tokenizer)
        place += len(items)


def _token(token_id: int, loss: bool, place: int, tokenizer: Tokenizer) -> str:
    name = tokenizer.special_name(token_id)
    text = name if name is not None else tokenizer.token_bytes(token_id).decode("utf-8", "backslashreplace")
    kinds = " ".join(kind for kind, there in (("loss", loss), ("special", name is not None)) if there)
    return f'<span class="{kinds}" title="{place}: id {token_id}">{html.escape(text)}</span>'


def _picture(sample: Sample, index: int) -> str:
    try:
        picture = images.load(sample.images[index])
    except ImageError as error:
        return f'<p class="problem">image {index}: {html.escape(str(error))}</p>'
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return picture_html(picture, _shapes(sample) if len(sample.images) == 1 else ())  # else nobody says whose a box is


def _shapes(sample: Sample) -> Iterator[str]:
    for turn in sample.turns:
        yield from polygons(turn.content, "model" if turn.role == "assistant" else "asked")
