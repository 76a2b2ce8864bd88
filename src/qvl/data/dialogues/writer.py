"""A language model writes dialogues about a picture that it knows from words and boxes alone.

Source: paper section 3.3 (dialogues generated from captions). The model, behind any server that speaks OpenAI's chat
API, is asked for JSON; what it says is checked against what is known, mended where that is safe, or refused with a
reason.
"""

import json
import re
from typing import Any

from qvl.data.dialogues.scene import Scene
from qvl.data.language import language_of
from qvl.data.sample import Turn
from qvl.errors import DataError
from qvl.text.markup import Content, Image, Ref, Segment, Text
from qvl.text.prompts import LANGUAGE_NAMES

MAX_ROUNDS = 8
MAX_CHARACTERS = 1200  # of one answer
INSTRUCTIONS = """You write a conversation between a user and an assistant about a picture that both can see. You know \
the picture only from the notes below; say nothing that they don't support, and never mention notes, captions or lists.
Write in {language}. Two to {rounds} questions, of different kinds: what is there, how many, which colour, what is \
where, what could happen next and why. Answers are complete sentences.
When an answer speaks of a listed object, put its number in square brackets directly behind its name, like "the red \
kite [2]". Use only listed numbers, and no other square brackets.
Reply with JSON alone: [{{"question": "...", "answer": "..."}}, ...]"""
_NUMBER = re.compile(r"\s*\[(\d+)\]")
_NOTES = re.compile(
    r"\b(the|these|those|your|my) (captions?|notes|given description)\b|(标题|描述中|根据笔记)", re.IGNORECASE
)
_TAGS = re.compile(r"</?(?:ref|box|quad|img)>|<\|")


def request(scene: Scene) -> list[dict[str, str]]:
    """The messages that ask for a dialogue about the scene."""
    rules = INSTRUCTIONS.format(language=LANGUAGE_NAMES[scene.language], rounds=MAX_ROUNDS)
    notes = [f"The picture: {caption}" for caption in scene.captions]
    for number, thing in enumerate(scene.things, 1):
        boxes = " and ".join(f"({b.x1},{b.y1})-({b.x2},{b.y2})" for b in thing.boxes)
        notes.append(f"[{number}] {thing.phrase}, at {boxes} of a 1000 x 1000 grid")
    return [{"role": "system", "content": rules}, {"role": "user", "content": "\n".join(notes)}]


def read_reply(reply: str, scene: Scene) -> tuple[Turn, ...]:
    """The model's text -> turns about image 0. DataError says why a reply is refused.

    Mended: prose or a code fence around the JSON, an object around the list, rounds beyond MAX_ROUNDS, a number in a
    question, a number that does not stand behind words.
    """
    rounds = _rounds(reply)
    turns: list[Turn] = []
    for number, item in enumerate(rounds[:MAX_ROUNDS]):
        question, answer = (_said(item, name) for name in ("question", "answer"))
        question = _NUMBER.sub("", question)
        if language_of(question + answer) != scene.language:
            raise DataError("reply in another language")
        asked: Content = (Text(question),)
        turns.append(Turn("user", (Image(0), *asked) if number == 0 else asked))
        turns.append(Turn("assistant", _grounded(answer, scene)))
    return tuple(turns)


def _rounds(reply: str) -> list[Any]:
    start, end = reply.find("["), reply.rfind("]")
    try:
        rounds = json.loads(reply[start : end + 1]) if 0 <= start < end else None
    except ValueError as error:
        raise DataError("reply is not JSON") from error
    if not isinstance(rounds, list) or not rounds:
        raise DataError("reply holds no dialogue")
    return rounds


def _said(item: Any, name: str) -> str:
    text = item.get(name) if isinstance(item, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"reply with an empty {name}")
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"reply with a {name} of more than {MAX_CHARACTERS} characters")
    if _TAGS.search(text):
        raise DataError("reply with tags in it")
    if _NOTES.search(text):
        raise DataError("reply speaks of its notes")
    return text.strip()


def _grounded(answer: str, scene: Scene) -> Content:
    """Words with the numbers of things behind them become phrases with boxes."""
    segments: list[Segment] = []
    place = 0
    for match in _NUMBER.finditer(answer):
        number = int(match[1])
        if not 1 <= number <= len(scene.things):
            raise DataError("reply names an object that is not there")
        before, phrase = _phrase_before(answer[place : match.start()], scene.things[number - 1].phrase)
        if before:
            segments.append(Text(before))
        if phrase:
            segments += [Ref(phrase), *scene.things[number - 1].boxes]
        place = match.end()
    if answer[place:]:
        segments.append(Text(answer[place:]))
    return tuple(segments)


def _phrase_before(text: str, name: str) -> tuple[str, str]:
    """Text that ends in a thing's name -> (what stands before it, the name). The model may have said its end alone,
    "kite" for "red kite", 风筝 for 红色的风筝."""
    lowered, wanted = text.lower(), name.lower()
    begins = [m.start() for m in re.finditer(r"(?<![^\W\d_])[^\W\d_]" if wanted.isascii() else r"\w(?=\w)", wanted)]
    for begin in (0, *begins):
        tail = wanted[begin:]
        if lowered.endswith(tail) and not (tail.isascii() and text[: -len(tail)][-1:].isalpha()):
            return text[: -len(tail)], text[-len(tail) :]
    return text, ""
