"""A sample's loss, token by token: what the model read, what came next in truth, and what it would have said.

Source: paper section 3. Under teacher forcing the model reads the true tokens whatever it would have said itself; the
loss of a token is minus the logarithm of the probability that it gave to the true one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from PIL import Image as PILImage
from torch import Tensor

from qvl import images
from qvl.data.sample import Sample
from qvl.errors import UsageError
from qvl.generate.chat import stop_ids
from qvl.generate.engine import Engine
from qvl.generate.request import Request
from qvl.model.qwen_vl import QwenVL
from qvl.text.markup import GRID
from qvl.text.render import DIALOGUE, render, render_prompt
from qvl.text.special_tokens import BOX_START, IGNORE_INDEX, QUAD_START
from qvl.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenLoss:
    """One true token, and what the model gave it when it had read all before it.

    why: the key of a sentence in qvl.explain.words. off: where both the token and the favourite are digits of a box or
    quad, how many pixels the favourite would have moved that side.
    """

    place: int
    token_id: int
    text: str
    supervised: bool
    why: str
    probability: float
    loss: float
    favourite: str
    favourite_probability: float
    is_favourite: bool
    off: float | None = None


@dataclass(frozen=True)
class LossTable:
    """tokens: every place but the first, in order. said_tokens: what the model says by itself, from the prompt on;
    parted: the number of them that are the true ones before the first that is another."""

    sample: Sample
    tokens: list[TokenLoss]
    said_tokens: list[str]
    true_tokens: list[str]
    parted: int

    @property
    def supervised(self) -> list[TokenLoss]:
        return [token for token in self.tokens if token.supervised]

    @property
    def said(self) -> str:
        """The model's own answer."""
        return "".join(self.said_tokens)

    def runs(self) -> Iterator[tuple[str | None, list[TokenLoss]]]:
        """Tokens that stand together and count (None), or do not for the same reason."""
        for why, run in groupby(self.tokens, key=lambda token: None if token.supervised else token.why):
            yield why, list(run)

    @property
    def total(self) -> float:
        """Summed loss of the supervised tokens."""
        return sum(token.loss for token in self.supervised)

    @property
    def mean(self) -> float:
        """What the trainer calls the loss."""
        return self.total / len(self.supervised)


@torch.inference_mode()
def loss_table(model: QwenVL, tokenizer: Tokenizer, sample: Sample) -> LossTable:
    """UsageError for a sample with nothing to learn, or too long for the model; errors of its pictures pass through."""
    config = model.config
    turns = [(turn.role, turn.content) for turn in sample.turns]
    rendered = render(turns, sample.task, tokenizer, config.vision.num_queries, config.language.seq_length)
    if rendered is None:
        raise UsageError(f"sample {sample.id}: nothing to learn, or longer than {config.language.seq_length} tokens")
    pictures = [images.load(sample.images[i]) for i in rendered.image_indices]
    pixels = [images.preprocess(picture, config.vision.image_size) for picture in pictures]
    weight = model.vision.conv1.weight
    ids = torch.tensor([rendered.input_ids], device=weight.device)
    logits = model(ids, torch.stack(pixels).to(weight) if pixels else None)[0].float()
    log_probabilities = logits.log_softmax(-1)
    reasons = list(_reasons(rendered.input_ids, rendered.labels, sample.task, tokenizer))
    moves = _digits(rendered.input_ids, tokenizer, pictures)
    tokens = [
        _token(place, rendered.input_ids[place], rendered.labels[place], reasons[place], row, tokenizer, moves)
        for place, row in enumerate(log_probabilities[:-1], start=1)
    ]
    said, true = _said(model, tokenizer, sample, rendered.input_ids, pixels)
    parted = next((i for i, (a, b) in enumerate(zip(said, true, strict=False)) if a != b), min(len(said), len(true)))
    spelled = [[token_text(tokenizer, one) for one in part] for part in (said, true)]
    return LossTable(sample, tokens, spelled[0], spelled[1], parted)


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """As it is shown: a tag by its name, bytes that are no text escaped."""
    if token_id >= tokenizer.vocab_size:
        return f"<row {token_id}>"
    return tokenizer.token_bytes(token_id).decode("utf-8", "backslashreplace")


def _token(
    place: int,
    token_id: int,
    label: int,
    why: str,
    row: Tensor,
    tokenizer: Tokenizer,
    moves: dict[int, tuple[int, float]],
) -> TokenLoss:
    best = int(row.argmax())
    favourite, off = token_text(tokenizer, best), None
    if place in moves and favourite.isdigit() and len(favourite) == 1:
        true, pixels = moves[place]
        off = abs(int(favourite) - true) * pixels
    return TokenLoss(
        place,
        token_id,
        token_text(tokenizer, token_id),
        label != IGNORE_INDEX,
        why,
        float(row[token_id].exp()),
        -min(float(row[token_id]), -0.0) + 0.0,
        favourite,
        float(row[best].exp()),
        best == token_id,
        off,
    )


def _reasons(ids: Sequence[int], labels: Sequence[int], task: str, tokenizer: Tokenizer) -> Iterator[str]:
    """Why each token counts or does not."""
    special = tokenizer.special
    inside, role, header = False, "", False
    for place, (token_id, label) in enumerate(zip(ids, labels, strict=True)):
        counts = label != IGNORE_INDEX
        if token_id == special.img_start:
            inside = True
        if inside:
            inside = token_id != special.img_end
            yield "image"
        elif task != DIALOGUE:
            yield ("end" if token_id == special.endoftext else "answer") if counts else "prefix"
        elif token_id == special.im_start:
            role, header = "", True
            yield "turn"
        elif header:
            text = token_text(tokenizer, token_id)
            header, role = "\n" not in text, role + text.strip()
            yield "role"
        elif token_id == special.im_end or (place and ids[place - 1] == special.im_end):
            yield "turn"
        else:
            yield role if role in ("system", "user", "assistant") else "prefix"


def _digits(
    ids: Sequence[int], tokenizer: Tokenizer, pictures: Sequence[PILImage.Image]
) -> dict[int, tuple[int, float]]:
    """Place of a digit within a box or quad -> the digit, and the pixels that one more of it is worth."""
    if not pictures:
        return {}
    opens = {tokenizer.special.id_of(tag) for tag in (BOX_START, QUAD_START)}
    found: dict[int, tuple[int, float]] = {}
    number, axis, inside = list[int](), 0, False
    for place, token_id in enumerate(ids):
        text = token_text(tokenizer, token_id)
        if token_id in opens:
            inside, axis, number = True, 0, []
        elif inside and text.isdigit() and len(text) == 1:
            number.append(place)
        elif inside:
            side = pictures[-1].size[axis]
            for position, digit in enumerate(reversed(number)):
                found[digit] = (int(token_text(tokenizer, ids[digit])), 10**position * side / GRID)
            axis, number = (axis + bool(number)) % 2, []
            inside = not tokenizer.special_name(token_id)
    return found


def _said(
    model: QwenVL, tokenizer: Tokenizer, sample: Sample, ids: Sequence[int], pixels: list[Tensor]
) -> tuple[list[int], list[int]]:
    """The model's own last answer, greedy, and the true one, which ends the sample."""
    turns = [(turn.role, turn.content) for turn in sample.turns]
    prompt = render_prompt(turns, sample.task, tokenizer, model.config.vision.num_queries).input_ids
    ends = stop_ids(tokenizer)
    true = list(ids[len(prompt) :])
    true = true[: next((i for i, one in enumerate(true) if one in ends), len(true))]
    if list(ids[: len(prompt)]) != prompt:
        return [], []  # text alone has no prompt
    shown = pixels[: sum(one == model.config.image_start_id for one in prompt)]
    room = model.config.language.seq_length - len(prompt)
    request = Request(prompt, shown, min(room, len(true) + 32), stop_ids=ends)
    return Engine(model, max_rows=1).run([request])[0], true
