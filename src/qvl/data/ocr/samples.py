"""Labelled lines on an image -> one sample of task "ocr".

Source: paper appendix B.1, OCR format: prefix `OCR with grounding:`, answer `<ref>text</ref><quad>...</quad>`
per line.
"""

import hashlib
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from qvl.data.language import language_of
from qvl.data.ocr.page import Corners, Page
from qvl.data.sample import Sample, Turn
from qvl.text import prompts
from qvl.text.markup import Ref, Segment, quad_from_pixels

SETTINGS = "ocr-4"  # raise it when the same input would give other samples

Labelled = tuple[str, Corners]


def png(image: Image.Image) -> bytes:
    """Lossless bytes of the image."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def ocr_sample(image: Image.Image, lines: Sequence[Labelled], page: Page, **extra: Any) -> Sample:
    """One sample; its id is the image's hash and place, so that the same input always gives the same id."""
    encoded = png(image)
    digest = hashlib.sha256(encoded).hexdigest()
    answer: list[Segment] = []
    for text, corners in lines:
        answer += [Ref(text), quad_from_pixels(corners, *image.size)]
    provenance = {"source": page.source, "row": page.number, "settings": SETTINGS, "image_sha256": digest, **extra}
    return Sample(
        id=f"ocr-{digest[:24]}",
        task="ocr",
        language=language_of("".join(text for text, _ in lines)),
        images=(encoded,),
        turns=(Turn("user", prompts.ocr_prefix()), Turn("assistant", tuple(answer))),
        provenance=provenance,
    )


def page_sample(page: Page) -> Sample:
    """A page, or a part of one, with every line; a part's provenance says where it was, in pixels of the page."""
    place = {} if page.place is None else {"part": page.place}
    return ocr_sample(page.image, [(line.text, line.corners) for line in page.lines], page, **place)
