"""What every reader of a benchmark gives: its questions as they are, and one clear error for data that is not."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl.errors import DataError
from qvl.text.render import RoleTurn

Picture = Path | bytes
SHOWN = 3  # of what is missing, in a message


@dataclass(frozen=True)
class Row:
    """One question: its pictures, the fields that a prompt has places for, and the truth as its metric takes it.

    group: what its score is also told by (a subtask, a type of question). options: the continuations whose likelihoods
    are compared, where the answer is not generated. turns and task: of a sample, which needs no prompt around it.
    """

    id: str
    pictures: tuple[Picture, ...]
    fields: Mapping[str, str]
    truth: Any
    group: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""  # what an exemplar of few-shot prompts says
    turns: tuple[RoleTurn, ...] = ()
    task: str = ""
    language: str = ""  # where a benchmark has several


@contextmanager
def at(path: Path, place: str) -> Iterator[None]:
    """A DataError that names file and row for whatever a row lacks."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{path}: {place}: has no {error.args[0]!r}") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: {place}: not of the expected form ({error})") from error


def text_of(row: Mapping[str, Any], name: str) -> str:
    """A field that has to be text. KeyError or ValueError, for `at`."""
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, not text")
    return value


def texts_of(row: Mapping[str, Any], name: str) -> list[str]:
    """A field that has to be a list of at least one text."""
    values = row[name]
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is {values!r}, not a list of texts")
    return values


def by_id(path: Path, rows: Sequence[Mapping[str, Any]], name: str) -> dict[Any, Mapping[str, Any]]:
    """Rows by their id. DataError for one that comes twice."""
    found: dict[Any, Mapping[str, Any]] = {}
    for number, row in enumerate(rows):
        with at(path, f"row {number}"):
            if row[name] in found:
                raise DataError(
                    f"{path}: row {number}: {name} {row[name]!r} is there twice; every question needs its own"
                )
            found[row[name]] = row
    return found


def answered(
    questions: Mapping[Any, Any], path: Path, answers: Mapping[Any, Any], answers_path: Path
) -> list[tuple[Any, Any, Any]]:
    """(id, question, answer) of all. DataError where either file has an id that the other lacks."""
    if unknown := [key for key in answers if key not in questions]:
        raise DataError(f"{answers_path}: answers {_some(unknown)}, which {path.name} does not ask")
    if without := [key for key in questions if key not in answers]:
        raise DataError(f"{path}: questions without an answer in {answers_path.name}: {_some(without)}")
    return [(key, question, answers[key]) for key, question in questions.items()]


def check_rows(rows: Sequence[Row], path: Path) -> None:
    """DataError for ids that come twice and for pictures that are not there: a part of a set is never scored as it."""
    if not rows:
        raise DataError(f"{path}: holds no question of this benchmark")
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise DataError(f"{path}: question {row.id} is there twice; every question needs its own id")
        seen.add(row.id)
    if missing := missing_pictures(rows):
        raise DataError(
            f"{path}: {len(missing):,} of its pictures are not there, such as {missing[0][1]} of question "
            f"{missing[0][0]}; `qvl eval --check` says what to get"
        )


def missing_pictures(rows: Sequence[Row]) -> list[tuple[str, Path]]:
    """(question's id, picture) of the pictures that are not there."""
    there: dict[Path, bool] = {}
    missing = []
    for row in rows:
        for picture in row.pictures:
            if isinstance(picture, Path) and picture not in there:
                there[picture] = picture.is_file()
                if not there[picture]:
                    missing.append((row.id, picture))
    return missing


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return shown + (f" and {len(values) - SHOWN:,} more" if len(values) > SHOWN else "")
