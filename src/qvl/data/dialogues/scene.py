"""What a dialogue may speak of: the captions of a picture and its phrases with boxes, from samples of stage 2."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from qvl.data.sample import Sample
from qvl.text.markup import Box, Content, Ref, Text, plain_text


@dataclass(frozen=True)
class Thing:
    """A phrase and its boxes."""

    phrase: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Scene:
    """One picture and all that is known of it."""

    key: str  # the first sample's id
    image: bytes
    language: str
    captions: tuple[str, ...]
    things: tuple[Thing, ...]


def scenes(samples: Iterable[Sample]) -> Iterator[Scene]:
    """Samples of one picture that follow each other become one scene; samples without a picture, or that say nothing
    of it that a dialogue could use, are passed over."""
    usable = (s for s in samples if len(s.images) == 1)
    for (image, language), group in groupby(usable, key=lambda s: (s.images[0], s.language)):
        members = list(group)
        captions = dict.fromkeys(text for s in members for text in _captions(s))
        things = {t.phrase: t for s in members for t in _things(s)}
        if captions or things:
            yield Scene(members[0].id, image, language, tuple(captions), tuple(things.values()))


def _captions(sample: Sample) -> Iterator[str]:
    if sample.task in ("caption", "grounded_caption"):
        yield plain_text(sample.turns[-1].content).strip()


def _things(sample: Sample) -> Iterator[Thing]:
    """Phrases with the boxes behind them, in answers; of a phrase asked for, the answer's boxes."""
    asked: Content = ()
    for turn in sample.turns:
        if turn.role == "user":
            asked = turn.content
        elif sample.task in ("referring", "grounding"):
            phrase = next((s.text for s in asked if isinstance(s, Ref)), "")
            boxes = tuple(s for s in turn.content if isinstance(s, Box))
            if phrase and boxes:
                yield Thing(phrase, boxes)
        elif sample.task == "grounded_caption":
            yield from _named(turn.content)
        elif sample.task == "region_caption":
            boxes = tuple(s for s in asked if isinstance(s, Box))
            phrase = "".join(s.text for s in turn.content if isinstance(s, Text)).strip()
            if phrase and boxes:
                yield Thing(phrase, boxes)


def _named(content: Content) -> Iterator[Thing]:
    phrase, boxes = "", list[Box]()
    for segment in (*content, Ref("")):
        if isinstance(segment, Ref):
            if phrase and boxes:
                yield Thing(phrase, tuple(boxes))
            phrase, boxes = segment.text, []
        elif isinstance(segment, Box):
            boxes.append(segment)
