"""A benchmark's rows -> what a model is asked: prompts, exemplars, and the truth beside them."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvl.errors import UsageError
from qvl.evaluate.benchmarks import Benchmark
from qvl.evaluate.rows import Picture, Row
from qvl.text.markup import Content, Image, Ref, Segment, Text
from qvl.text.render import DIALOGUE, RoleTurn, join_texts
from qvl.text.special_tokens import BOX_START

_PLACE = re.compile(r"(?P<image><img></img>)|(?P<frames><frames>)|<ref>\{(?P<ref>\w+)\}</ref>|\{(?P<field>\w+)\}")
PLAIN = "plain"  # turns as they stand, without the marks of a dialogue


@dataclass(frozen=True)
class Item:
    """One question as it is asked.

    turns: what was said before, the question last. task: DIALOGUE, or a task of pre-training whose prompts are plain.
    opened: whether the answer's `<box>` is part of the prompt. options: see Row.
    """

    id: str
    pictures: tuple[Picture, ...]
    turns: tuple[RoleTurn, ...]
    task: str
    truth: Any
    group: str = ""
    opened: bool = False
    options: tuple[str, ...] = ()
    numbered: bool = True
    language: str = "en"


def make_items(
    benchmark: Benchmark,
    rows: Sequence[Row],
    *,
    as_chat: bool = False,
    exemplars: Sequence[Row] = (),
    shots: int = 0,
    seed: int = 0,
) -> list[Item]:
    """Every row as a question. as_chat: as a dialogue, options answered by letter; a benchmark may ask for it itself.

    shots exemplars precede each question, drawn by the question's id and the seed alone: neither the order of the
    questions nor the number of processes matters. UsageError where there are fewer exemplars.
    """
    if shots > len(exemplars):
        raise UsageError(f"{benchmark.name}: {shots} shots, but its train split has {len(exemplars)} questions")
    return [item_of(benchmark, row, as_chat, choose(exemplars, shots, seed, row.id)) for row in rows]


def choose(exemplars: Sequence[Row], shots: int, seed: int, item_id: str) -> list[Row]:
    """The exemplars of one question: naive, without regard to what they show (paper section 4.4)."""
    if not shots:
        return []
    return random.Random(f"{seed}/{item_id}").sample(exemplars, shots)


def item_of(benchmark: Benchmark, row: Row, as_chat: bool, shots: Sequence[Row]) -> Item:
    """One row as a question, behind these exemplars."""
    language = row.language or benchmark.language
    if row.turns:
        return Item(row.id, row.pictures, row.turns, row.task, row.truth, row.group, language=language)
    dialogue = as_chat or benchmark.as_chat
    template = benchmark.prompt.removesuffix(BOX_START)
    pictures: tuple[Picture, ...] = ()
    turns: list[RoleTurn] = []
    for shot in shots:
        turns += [
            ("user", prompt_content(template, shot.fields, len(shot.pictures), len(pictures))),
            ("assistant", (Text(shot.answer if dialogue else f" {shot.answer}"),)),
        ]
        pictures += shot.pictures
    turns.append(("user", prompt_content(template, row.fields, len(row.pictures), len(pictures))))
    if not dialogue:  # one text, in which the answers of the exemplars stand
        turns = [("user", join_texts([segment for _, content in turns for segment in content]))]
    return Item(
        row.id,
        pictures + row.pictures,
        tuple(turns),
        DIALOGUE if dialogue else PLAIN,
        row.truth,
        row.group,
        opened=not dialogue and benchmark.prompt.endswith(BOX_START),
        options=() if dialogue else row.options,
        numbered=benchmark.numbered,
        language=language,
    )


def prompt_content(template: str, fields: Mapping[str, str], pictures: int, first: int = 0) -> Content:
    """A prompt of the table with its places filled, the first picture numbered `first`."""
    segments: list[Segment] = []
    place, shown = 0, first
    for match in _PLACE.finditer(template):
        segments.append(Text(template[place : match.start()]))
        place = match.end()
        if match["image"]:
            segments.append(Image(shown))
            shown += 1
        elif match["frames"]:
            for _ in range(pictures):
                segments += [Image(shown), Text("\n")]
                shown += 1
        elif match["ref"]:
            segments.append(Ref(fields[match["ref"]]))
        else:
            segments.append(Text(fields[match["field"]]))
    segments.append(Text(template[place:]))
    return join_texts([segment for segment in segments if segment != Text("")])
