"""A sample's turns -> input_ids and labels: the only place that decides supervision and truncation.

Source: paper appendix B.1 for the tasks of stages 1 and 2, finetune.py for the dialogues of stage 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qvl.errors import TextError
from qvl.text.markup import Box, Content, Image, Quad, Ref, Segment, Text
from qvl.text.prompts import DEFAULT_SYSTEM, LEADING_SPACE, picture_prefix
from qvl.text.special_tokens import (
    BOX_END,
    BOX_START,
    IGNORE_INDEX,
    QUAD_END,
    QUAD_START,
    REF_END,
    REF_START,
)
from qvl.text.tokenizer import Tokenizer

DIALOGUE = "dialogue"
RoleTurn = tuple[str, Content]


@dataclass(frozen=True)
class Rendered:
    """input_ids and labels, aligned; image_indices: which of the sample's images, in order of their spans."""

    input_ids: list[int]
    labels: list[int]
    image_indices: tuple[int, ...]
    dropped_turns: int = 0


def render(
    turns: Sequence[RoleTurn],
    task: str,
    tokenizer: Tokenizer,
    num_image_tokens: int,
    max_length: int | None = None,
) -> Rendered | None:
    """Turns of a sample, with their supervision; None when not even the first exchange fits max_length.

    A dialogue ends with an answer to the user: what follows the last one that fits max_length is left out
    and counted in dropped_turns. Any other task is never cut.
    """
    writer = _Writer(tokenizer, num_image_tokens)
    if task != DIALOGUE:
        writer.task(turns, task)
        return writer.rendered() if max_length is None or len(writer.ids) <= max_length else None
    writer.system(turns)
    best: Rendered | None = None
    spoken = [turn for turn in turns if turn[0] != "system"]
    asked = False
    for place, (role, content) in enumerate(spoken):
        writer.turn(role, content)
        if max_length is not None and len(writer.ids) > max_length:
            break
        asked = asked or role == "user"
        if asked and role == "assistant":
            best = writer.rendered(dropped_turns=len(spoken) - place - 1)
    return best


def render_prompt(
    turns: Sequence[RoleTurn], task: str, tokenizer: Tokenizer, num_image_tokens: int, numbered: bool = True
) -> Rendered:
    """What the model reads before it answers: all turns up to the last user's, ready for the answer.

    numbered: whether the pictures of a dialogue are introduced by their numbers, as in training.
    """
    asked = turns[:-1] if turns and turns[-1][0] == "assistant" else turns
    writer = _Writer(tokenizer, num_image_tokens, numbered)
    if task != DIALOGUE:
        writer.task(asked, task)
    else:
        writer.system(asked)
        for role, content in asked:
            if role != "system":
                writer.turn(role, content)
        writer.add([tokenizer.special.im_start, *tokenizer.encode("assistant"), *tokenizer.encode("\n")], False)
    return writer.rendered()


class _Writer:
    """Collects ids and labels."""

    def __init__(self, tokenizer: Tokenizer, num_image_tokens: int, numbered: bool = True) -> None:
        self.tokenizer, self.num_image_tokens, self.numbered = tokenizer, num_image_tokens, numbered
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.images: list[int] = []

    def rendered(self, dropped_turns: int = 0) -> Rendered:
        return Rendered(list(self.ids), list(self.labels), tuple(self.images), dropped_turns)

    def add(self, ids: Sequence[int], supervised: bool) -> None:
        self.ids += ids
        self.labels += ids if supervised else [IGNORE_INDEX] * len(ids)

    def task(self, turns: Sequence[RoleTurn], task: str) -> None:
        """Prefixes without loss, each answer and the end of text behind it with it."""
        for role, content in turns:
            answer = role == "assistant"
            self.content(with_leading_space(content) if answer and task in LEADING_SPACE else content, answer)
            if answer:
                self.add([self.tokenizer.special.endoftext], True)

    def system(self, turns: Sequence[RoleTurn]) -> None:
        given = [content for role, content in turns if role == "system"]
        self.turn("system", given[0] if given else (Text(DEFAULT_SYSTEM),))

    def turn(self, role: str, content: Content) -> None:
        """One ChatML turn: its start, its end and the newline carry loss, and what the assistant says."""
        special, newline = self.tokenizer.special, self.tokenizer.encode("\n")
        self.add([special.im_start], True)
        self.add([*self.tokenizer.encode(role), *newline], False)
        shown = number_pictures(content, len(self.images)) if self.numbered else content
        self.content(shown, supervised=role == "assistant")
        self.add([special.im_end, *newline], True)

    def content(self, content: Content, supervised: bool) -> None:
        for segment in join_texts(content):
            self._segment(segment, supervised)

    def _segment(self, segment: Segment, supervised: bool) -> None:
        match segment:
            case Text(text):
                self.add(self.tokenizer.encode(text), supervised)
            case Ref(text):
                self._tagged(REF_START, text, REF_END, supervised)
            case Box():
                self._tagged(BOX_START, segment.inner, BOX_END, supervised)
            case Quad():
                self._tagged(QUAD_START, segment.inner, QUAD_END, supervised)
            case Image(index):
                special = self.tokenizer.special
                places = [special.img_pad] * self.num_image_tokens
                self.add([special.img_start, *places, special.img_end], False)
                self.images.append(index)

    def _tagged(self, start: str, text: str, end: str, supervised: bool) -> None:
        id_of = self.tokenizer.special.id_of
        self.add([id_of(start), *self.tokenizer.encode(text), id_of(end)], supervised)


def number_pictures(content: Content, before: int) -> Content:
    """`Picture 1: ` before each image of a dialogue and a newline behind it; `before` came earlier."""
    segments: list[Segment] = []
    for segment in content:
        if isinstance(segment, Image):
            before += 1
            segments += [picture_prefix(before), segment, Text("\n")]
        else:
            segments.append(segment)
    return tuple(segments)


def with_leading_space(content: Content) -> Content:
    """The answer as the paper's templates have it, after a space."""
    return join_texts((Text(" "), *content))


def join_texts(content: Sequence[Segment]) -> Content:
    """Neighbouring texts as one, since the tokenizer reads across their border."""
    joined: list[Segment] = []
    for segment in content:
        if isinstance(segment, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + segment.text)
        else:
            joined.append(segment)
    return tuple(joined)


def supervised_text(rendered: Rendered, tokenizer: Tokenizer) -> str:
    """What carries loss, as text: for tests, docs and curious readers."""
    if len(rendered.input_ids) != len(rendered.labels):
        raise TextError("input_ids and labels differ in length")
    return tokenizer.decode([label for label in rendered.labels if label != IGNORE_INDEX])
