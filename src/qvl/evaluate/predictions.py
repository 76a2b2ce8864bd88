"""Answers on disk: JSON lines with all that a score needs, written as they come, so that a killed run goes on.

Each process writes a file of its own; when all questions are answered they become one, in the benchmark's order.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl.data.raw import parse_json
from qvl.errors import DataError
from qvl.evaluate.items import Item
from qvl.evaluate.scorers import Record
from qvl.files import write_text
from qvl.text.markup import Image, to_string

PREDICTIONS_NAME = "predictions.jsonl"
PART_NAME = "predictions.part-{rank}.jsonl"


@dataclass(frozen=True)
class Reply:
    """What a model answered, tags and all; the letter of the likeliest option where likelihoods were compared."""

    answer: str


def question_text(item: Item) -> str:
    """All turns as text, pictures as <img></img>."""
    said = []
    for role, content in item.turns if item.turns[-1][0] == "user" else item.turns[:-1]:
        text = "".join("<img></img>" if isinstance(s, Image) else to_string((s,)) for s in content)
        said.append(text if len(item.turns) < 3 else f"{role}: {text}")
    return "\n".join(said)


def line_of(item: Item, reply: Reply) -> str:
    """One line of the file."""
    record: dict[str, Any] = {
        "id": item.id,
        "question": question_text(item),
        "answer": reply.answer,
        "truth": item.truth,
        "group": item.group,
        "language": item.language,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_records(path: Path) -> list[Record]:
    """The answered questions of a file, in its order. DataError for a line that is none."""
    records = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            row = parse_json(line)
            fields = (row[name] for name in ("id", "answer", "truth", "group", "language", "question"))
            records.append(Record(*fields))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: line {number}: no answered question ({error!r}); delete that line") from error
    return records


def whole_lines(path: Path) -> list[str]:
    """A file's lines, without one that is being written, or was when a run was killed."""
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; run `qvl eval` again") from error


def parts(folder: Path) -> list[Path]:
    """What processes have written so far."""
    return sorted(folder.glob(PART_NAME.format(rank="*")))


def answered_ids(folder: Path) -> set[str]:
    """Questions that are answered already, of whatever number of processes."""
    return {record.id for path in parts(folder) for record in read_records(path)}


def append(path: Path, batches: Iterable[list[tuple[Item, Reply]]]) -> None:
    """Write each batch as soon as it is answered, behind what a killed run wrote; its half line is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        for batch in batches:
            # "replace": a server's JSON can spell characters that are none
            file.write("".join(line_of(item, reply) for item, reply in batch).encode("utf-8", "replace"))
            file.flush()


def merge(folder: Path, items: Sequence[Item]) -> None:
    """One file from the parts, every question once and in the benchmark's order. DataError where an answer is missing,
    or is to a question that was not asked."""
    lines: dict[str, str] = {}
    for path in parts(folder):
        for line in whole_lines(path):
            lines.setdefault(json.loads(line)["id"], line + "\n")
    wanted = [item.id for item in items]
    if missing := [key for key in wanted if key not in lines]:
        raise DataError(f"{folder}: {len(missing):,} of {len(wanted):,} questions have no answer, such as {missing[0]}")
    if strange := lines.keys() - set(wanted):
        raise DataError(f"{folder}: holds answers to questions that are not asked, such as {min(strange)}")
    write_text(folder / PREDICTIONS_NAME, "".join(lines[key] for key in wanted))
    for path in parts(folder):
        path.unlink()
