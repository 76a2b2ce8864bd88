"""A picture and a question through the whole model: shapes, cost, and what every token of the answer attends to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image as PILImage
from torch import Tensor

from qvl import images
from qvl.errors import UsageError
from qvl.explain.looks import looking
from qvl.explain.loss import token_text
from qvl.explain.shapes import Flow, flow_of, flowing
from qvl.generate.chat import ANSWER_TOKENS, pixels_of, stop_ids
from qvl.generate.engine import Engine
from qvl.generate.request import Request
from qvl.images import ImageSource
from qvl.model.config import PRESETS
from qvl.model.qwen_vl import QwenVL
from qvl.text.markup import Image, Text
from qvl.text.render import DIALOGUE, RoleTurn, render_prompt
from qvl.text.tokenizer import Tokenizer

# Where a token of the answer can look: the row's first token (where attention rests that is needed nowhere), the
# picture's places, the other places of the prompt, the answer so far.
PLACES = ("first", "picture", "question", "answer")
TOP = 3


@dataclass(frozen=True)
class Look:
    """What the model attended to when it said a token, mean of all layers and heads. shares: of PLACES, together 1;
    patches (P,): what it took of each patch by way of the adapter's queries, together the picture's share; words: the
    places of text with the highest shares."""

    text: str
    shares: tuple[float, ...]
    patches: Tensor
    words: list[tuple[str, float]]


@dataclass(frozen=True)
class AnswerFlow:
    """own: this model's pass over prompt and answer. published: of the 9.6B over the same text, None for itself.

    queries (Q, P): what each query of the adapter takes of each patch. layers: shares of PLACES, layer by layer, mean
    of the answer's tokens. looks: of each token of the answer, the last one being what ended it.
    """

    picture: PILImage.Image
    question: str
    own: Flow
    published: Flow | None
    queries: Tensor
    layers: list[tuple[float, ...]]
    looks: list[Look]

    @property
    def answer(self) -> str:
        """What the model said."""
        return "".join(look.text for look in self.looks[:-1])


@torch.inference_mode()
def answer_flow(model: QwenVL, tokenizer: Tokenizer, source: ImageSource, question: str) -> AnswerFlow:
    """The greedy answer to a question about a picture, read once more with an eye on every part.

    UsageError for a question with no room, ImageError for a picture that can't be read.
    """
    config = model.config
    picture = images.load(source)
    turns: list[RoleTurn] = [("user", (Image(0), Text(question)))]
    prompt = render_prompt(turns, DIALOGUE, tokenizer, config.vision.num_queries).input_ids
    room = min(ANSWER_TOKENS, config.language.seq_length - len(prompt))
    if room < 1:
        raise UsageError(f"the question takes {len(prompt)} tokens, the model reads {config.language.seq_length}")
    pixels = pixels_of([picture], config)
    said = Engine(model, max_rows=1).run([Request(prompt, pixels, room, stop_ids=stop_ids(tokenizer))])[0]
    ids = [*prompt, *said]
    rows = slice(len(prompt) - 1, len(ids))
    weight = model.vision.conv1.weight
    with flowing(model) as own, looking(model, rows) as looked:
        logits = model(torch.tensor([ids], device=weight.device), pixels[0][None].to(weight))
    published = PRESETS["qwen-vl"]
    extra = published.vision.num_queries - config.vision.num_queries
    large = None if published == config else flow_of(published, 1, len(ids) + extra)
    kinds = _kinds(ids, len(prompt), tokenizer)
    layers = torch.stack(looked.layers)  # (L, rows, T)
    next_ids = [*said, int(logits[0, -1].argmax())]
    texts = [token_text(tokenizer, one) for one in ids]
    looks = [
        _look(token_text(tokenizer, one), row, kinds, looked.patches[0], texts)
        for one, row in zip(next_ids, layers.mean(0), strict=True)
    ]
    by_layer = [_shares(layer.mean(0), kinds) for layer in layers]
    return AnswerFlow(picture, question, own, large, looked.patches[0], by_layer, looks)


def _kinds(ids: Sequence[int], prompt_length: int, tokenizer: Tokenizer) -> Tensor:
    """(T,): the number of each place among PLACES."""
    kinds = torch.full((len(ids),), PLACES.index("question"))
    kinds[torch.tensor(ids) == tokenizer.special.img_pad] = PLACES.index("picture")
    kinds[prompt_length:] = PLACES.index("answer")
    kinds[0] = PLACES.index("first")
    return kinds


def _shares(row: Tensor, kinds: Tensor) -> tuple[float, ...]:
    return tuple(torch.zeros(len(PLACES)).index_add_(0, kinds, row).tolist())


def _look(text: str, row: Tensor, kinds: Tensor, queries: Tensor, texts: Sequence[str]) -> Look:
    shown = kinds == PLACES.index("picture")
    words = row.masked_fill(shown | (kinds == PLACES.index("first")), 0)
    best = words.topk(min(TOP, len(words)))
    said = [(texts[i], share) for share, i in zip(best.values.tolist(), best.indices.tolist(), strict=True) if share]
    return Look(text, _shares(row, kinds), row[shown] @ queries, said)
