"""A conversation about pictures: history, streaming, and answers as markup whose boxes can be drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image as PILImage

from qvl import images
from qvl.errors import UsageError
from qvl.generate.answer import picture_meant
from qvl.generate.engine import Engine
from qvl.generate.request import Request
from qvl.generate.sampling import SamplingConfig
from qvl.generate.spoken import SpokenText
from qvl.images import ImageSource
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.markup import Box, Content, Image, Quad, Text, parse_markup
from qvl.text.render import DIALOGUE, RoleTurn, render_prompt
from qvl.text.tokenizer import Tokenizer

ANSWER_TOKENS = 256


@dataclass
class Chat:
    """One conversation. Pictures are numbered in the order in which they were shown, over all turns."""

    model: QwenVL
    tokenizer: Tokenizer
    system: str | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_new_tokens: int = ANSWER_TOKENS
    seed: int = 0
    turns: list[RoleTurn] = field(default_factory=list)
    pictures: list[PILImage.Image] = field(default_factory=list)
    dropped_turns: int = 0  # turns that the last prompt had no room for

    def __post_init__(self) -> None:
        self._engine = Engine(self.model, max_rows=1)  # keeps what was read: the next question goes on from there

    def ask(self, question: str, pictures: Sequence[ImageSource] = ()) -> Iterator[str]:
        """The answer's text as it comes, markup tags included; kept in the history when it is complete.

        The question is plain text: tags in it stay text. Raises ImageError for a picture that can't be read
        (the history is then as it was) and UsageError for a question that does not fit the context.
        """
        shown = [images.load(picture) for picture in pictures]
        places = tuple(Image(len(self.pictures) + i) for i in range(len(shown)))
        user: RoleTurn = ("user", (*places, Text(question)))
        prompt, used = self._prompt([*self.pictures, *shown], user)
        spoken = SpokenText(self.tokenizer)
        answer = ""
        request = Request(
            prompt,
            pixels_of(used, self.model.config),
            self.max_new_tokens,
            stop_ids=stop_ids(self.tokenizer),
            sampling=self.sampling,
            seed=self.seed + len(self.turns),
        )
        for step in self._engine.stream(request):
            if step.token_id is not None:
                answer += (piece := spoken.push(step.token_id))
                yield piece
        answer += (rest := spoken.flush())
        yield rest
        self.pictures += shown
        self.turns += [user, ("assistant", parse_markup(answer))]

    @property
    def last_answer(self) -> Content:
        """The newest answer, empty before the first."""
        return self.turns[-1][1] if self.turns else ()

    def reset(self) -> None:
        """Forget the conversation."""
        self.turns.clear()
        self.pictures.clear()

    def draw_last_answer(self) -> PILImage.Image | None:
        """The picture that was asked about with the last answer's boxes on it; None without a picture or a box."""
        answer = self.last_answer
        if not self.pictures or not any(isinstance(segment, Box | Quad) for segment in answer):
            return None
        return images.draw_boxes(self.pictures[picture_meant(self.turns[-2][1], len(self.pictures))], answer)

    def _prompt(self, pictures: list[PILImage.Image], user: RoleTurn) -> tuple[list[int], list[PILImage.Image]]:
        """Token ids and the pictures in them; whole exchanges go, oldest first, until the rest has room."""
        room = self.model.config.language.seq_length - self.max_new_tokens
        system: list[RoleTurn] = [("system", (Text(self.system),))] if self.system is not None else []
        for start in range(0, len(self.turns) + 1, 2):
            turns = [*system, *self.turns[start:], user]
            rendered = render_prompt(turns, DIALOGUE, self.tokenizer, self.model.config.vision.num_queries)
            if len(rendered.input_ids) <= room:
                self.dropped_turns = start
                return rendered.input_ids, [pictures[i] for i in rendered.image_indices]
        raise UsageError(f"the question takes {len(rendered.input_ids)} tokens, there is room for {room}; shorten it")


def pixels_of(pictures: Sequence[ImageSource], config: QwenVLConfig) -> list[torch.Tensor]:
    """pixel_values (3, S, S) of each picture, as a model of this config takes it."""
    return [images.preprocess(picture, config.vision.image_size) for picture in pictures]


def stop_ids(tokenizer: Tokenizer) -> set[int]:
    """What ends an answer."""
    return {tokenizer.special.endoftext, tokenizer.special.im_end, tokenizer.special.im_start}


def answer_content(ids: Sequence[int], tokenizer: Tokenizer) -> Content:
    """Whatever a model said, as markup.

    Unlike Tokenizer.decode this takes any ids: a model may begin an image that never ends, or say a row of
    the embedding that stands for no token (left out).
    """
    known = (tokenizer.token_bytes(i) for i in ids if i < tokenizer.vocab_size)
    return parse_markup(b"".join(known).decode("utf-8", "replace"))
