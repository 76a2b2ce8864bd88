"""The published string format, quirk for quirk: for prompts and data written for the published checkpoints.

Source: tokenization_qwen.py (list format), qwen_generation_utils.py (make_context, decode_tokens) and
finetune.py (preprocess). Here tags in the text count; qvl's own data goes through `render`, where they don't.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qvl.errors import TextError
from qvl.text.prompts import DEFAULT_SYSTEM
from qvl.text.special_tokens import (
    BOX_END,
    BOX_START,
    CHAT_TOKENS,
    ENDOFTEXT,
    IGNORE_INDEX,
    IM_END,
    IM_START,
    IMAGE_TOKENS,
    IMG_END,
    IMG_START,
    MARKUP_TOKENS,
    QUAD_END,
    QUAD_START,
    REF_END,
    REF_START,
)
from qvl.text.tokenizer import Tokenizer

Element = dict[str, Any]  # one of text, image, ref, box, quad; a ref may come with its boxes
History = Sequence[tuple[str, str | None]]  # (query, answer)
VISION_TOKENS = (*MARKUP_TOKENS, *IMAGE_TOKENS)
KINDS = {
    IMG_START: ("image", IMG_END),
    REF_START: ("ref", REF_END),
    BOX_START: ("box", BOX_END),
    QUAD_START: ("quad", QUAD_END),
}
_START = re.compile("|".join(map(re.escape, KINDS)))


@dataclass(frozen=True)
class FinetuneBatch:
    """Rows of max_len places: ids, labels (IGNORE_INDEX where no loss), and False where the id is padding."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    attention_mask: list[list[bool]]


def from_list_format(elements: Iterable[Element]) -> str:
    """Elements -> text; images count from 1 as `Picture 1: <img>path</img>` and a newline.

    An element is {"image": path}, {"text": s}, or {"box": [[x1, y1, x2, y2], ...]} with or without "ref".
    Raises TextError for any other.
    """
    text, pictures = "", 0
    for element in elements:
        match element:
            case {"image": path}:
                pictures += 1
                text += f"Picture {pictures}: {IMG_START}{path}{IMG_END}\n"
            case {"text": words}:
                text += words
            case {"box": [*boxes]}:
                text += f"{REF_START}{element['ref']}{REF_END}" if "ref" in element else ""
                text += "".join(map(_box_string, boxes))
            case _:
                raise TextError(f"element {element!r} is none of image, text, box, or ref with box")
    return text


def to_list_format(text: str) -> list[Element]:
    """Text -> elements {"text" | "image" | "ref" | "box" | "quad": what stands between its tags}.

    Raises TextError for a tag without its end and for a chat token (but `<|endoftext|>`) in the text.
    """
    text = unicodedata.normalize("NFC", text)
    if token := next((t for t in CHAT_TOKENS if t != ENDOFTEXT and t in text), None):
        raise TextError(f"the text spells {token}, which may not stand in this format; take it out")
    elements: list[Element] = []
    place = 0
    while start := _START.search(text, place):
        kind, end_tag = KINDS[start.group()]
        end = text.find(end_tag, start.end())
        if end < 0:
            raise TextError(f"unclosed {start.group()}: every tag needs its {end_tag}")
        if start.start() > place:
            elements.append({"text": text[place : start.start()]})
        elements.append({kind: text[start.end() : end]})
        place = end + len(end_tag)
    return [*elements, {"text": text[place:]}] if place < len(text) else elements


def boxes_with_refs(text: str) -> list[Element]:
    """Every box of a text as {"box": (x1, y1, x2, y2)}, with "ref" when its phrase stands directly before it.

    A second box of a phrase has no "ref", as published. `parse_markup` keeps the whole order instead.
    Raises TextError for a box without four integers, and as to_list_format.
    """
    elements = to_list_format(text)
    found: list[Element] = []
    for before, element in zip([{}, *elements], elements, strict=False):
        if "box" in element:
            ref = {"ref": before["ref"]} if "ref" in before else {}
            found.append({"box": _corners(element["box"]), **ref})
    return found


def latest_picture(response: str, history: History = ()) -> str | None:
    """Path of the last image in the response, else in the newest query that shows one."""
    for text in (response, *(query for query, _ in reversed(history))):
        paths = [element["image"] for element in to_list_format(text) if "image" in element]
        if paths:
            return str(paths[-1])
    return None


def make_context(
    tokenizer: Tokenizer,
    query: str,
    history: History = (),
    system: str = "",
    max_window_size: int = 6144,
) -> tuple[str, list[int]]:
    """A ChatML prompt: its text and its ids. The newest turns stay while they fit max_window_size.

    As published, the window does not count the query, a typed `<|im_start|>` is plain text, and an answer of
    None leaves a doubled newline.
    """
    newline = tokenizer.encode("\n")
    start, end = tokenizer.special.im_start, tokenizer.special.im_end

    def message(role: str, content: str) -> tuple[str, list[int]]:
        ids = [*tokenizer.encode(role), *newline, *tokenizer.encode_published(content, VISION_TOKENS)]
        return f"{IM_START}{role}\n{content}{IM_END}", [start, *ids, end]

    system_text, system_ids = message("system", system)
    kept_text, kept_ids = "", list[int]()
    for asked, answered in reversed(history):
        text, ids = message("user", asked)
        answer_text, answer_ids = ("", []) if answered is None else message("assistant", answered)
        ids = [*newline, *ids, *newline, *answer_ids]
        if len(system_ids) + len(ids) + len(kept_ids) >= max_window_size:
            break
        kept_text, kept_ids = f"\n{text}\n{answer_text}" + kept_text, ids + kept_ids
    query_text, query_ids = message("user", query)
    opening = [*newline, start, *tokenizer.encode("assistant"), *newline]
    return (
        f"{system_text}{kept_text}\n{query_text}\n{IM_START}assistant\n",
        [*system_ids, *kept_ids, *newline, *query_ids, *opening],
    )


def decode_tokens(tokenizer: Tokenizer, ids: Sequence[int], raw_text: str, context_length: int) -> str:
    """The answer behind a prompt of context_length ids whose text is raw_text.

    As published: cut at the first `<|im_start|>` or `<|im_end|>`, without either the last id goes; the
    prompt is cut off by the number of its characters, which eats into the answer when it is not NFC.
    """
    stops = {tokenizer.special.im_start, tokenizer.special.im_end}
    last = max(len(ids) - 1, context_length)
    end = next((i for i in range(context_length, len(ids)) if ids[i] in stops), last)
    return tokenizer.decode(ids[:end])[len(raw_text) :].strip()


def preprocess(
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[dict[str, str]]],
    max_len: int,
    system: str = DEFAULT_SYSTEM,
) -> FinetuneBatch:
    """Conversations of {"from": "user" | "assistant", "value": text} -> rows of max_len ids with labels.

    As published, all tags count, a row is cut at max_len wherever that falls, and a first message that is
    not the user's is left out. Raises TextError for an unknown role or an empty conversation.
    """
    rows = [_finetune_row(tokenizer, conversation, system) for conversation in conversations]
    pad = tokenizer.special.endoftext
    input_ids = [_to_length(ids, max_len, pad) for ids, _ in rows]
    labels = [_to_length(targets, max_len, IGNORE_INDEX) for _, targets in rows]
    return FinetuneBatch(input_ids, labels, [[i != pad for i in row] for row in input_ids])


def _finetune_row(
    tokenizer: Tokenizer, conversation: Sequence[dict[str, str]], system: str
) -> tuple[list[int], list[int]]:
    if not conversation:
        raise TextError("an empty conversation: give at least one message")
    spoken = [(_role(message), message.get("value", "")) for message in conversation]
    spoken = spoken if spoken[0][0] == "user" else spoken[1:]
    newline = tokenizer.encode("\n")
    ids: list[int] = []
    labels: list[int] = []
    for role, value in [("system", system), *spoken]:
        name = [*tokenizer.encode(role), *newline]
        content = tokenizer.encode_published(value)
        end = [tokenizer.special.im_end, *newline]
        ids += [tokenizer.special.im_start, *name, *content, *end]
        said = content if role == "assistant" else [IGNORE_INDEX] * len(content)
        labels += [tokenizer.special.im_start, *[IGNORE_INDEX] * len(name), *said, *end]
    return ids, labels


def _role(message: dict[str, str]) -> str:
    role = message.get("from", "")
    if role not in ("user", "assistant"):
        raise TextError(f'message "from" is {role!r}: it must be "user" or "assistant"')
    return role


def _to_length(row: list[int], length: int, padding: int) -> list[int]:
    return row[:length] + [padding] * (length - len(row))


def _box_string(box: Sequence[float]) -> str:
    x1, y1, x2, y2 = (int(c) for c in box)
    return f"{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}"


def _corners(inner: str) -> tuple[int, ...]:
    """`(1,2),(3,4)` -> (1, 2, 3, 4); no check of range or order, as published."""
    points = re.fullmatch(r"\((-?\d+),(-?\d+)\),\((-?\d+),(-?\d+)\)", inner)
    if points is None:
        raise TextError(f"box {inner!r} is not (x1,y1),(x2,y2) with integers")
    return tuple(map(int, points.groups()))
