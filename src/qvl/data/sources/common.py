"""What every reader gives: exchanges about an image, its boxes still in the measure of its data set."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl.data.damage import Damage
from qvl.data.splits import OTHER_SPLIT
from qvl.errors import DataError, ImageError
from qvl.text.markup import Box, Content, box_from_pixels

Exchange = tuple[Content, Content]  # prefix, answer
NOT_UTF8 = "text is not Unicode"


@dataclass(frozen=True)
class Annotation:
    """One exchange about one image. `exchange` makes it once the image's (width, height) in pixels are known;
    a DataError from it drops this annotation and names why."""

    key: str
    task: str
    image: Path | bytes = field(repr=False)
    exchange: Callable[[int, int], Exchange] = field(repr=False)


@dataclass(frozen=True)
class Statistics:
    """What a reader counts of its rows beside the samples, for the report."""

    counts: Counter[str]


Annotations = Iterator[Annotation | Statistics | Damage]


def fixed(prefix: Content, answer: Content) -> Callable[[int, int], Exchange]:
    """An exchange that does not depend on the image's size."""
    return lambda width, height: (prefix, answer)


def other_split(key: str, split: object, picture: Path, rows: int = 1) -> Damage:
    """A row that is not for training; its picture is remembered, so that other data sets can leave it out too."""
    return Damage(OTHER_SPLIT, key, str(split), rows, str(picture.absolute()))


def read_json(path: Path) -> Any:
    """A whole JSON file. DataError names a file that is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the data set's own annotation file") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error


def read_picture(path: Path) -> bytes:
    """A picture's file as it is. ImageError where it can't be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise ImageError(f"{path}: {error}", "missing image") from error


def names_of(files: Sequence[Path]) -> list[str]:
    """What samples call their file: its name, and its path where several have that name."""
    count = Counter(path.name for path in files)
    return [path.name if count[path.name] == 1 else path.as_posix() for path in files]


def of_form(path: Path, form: str) -> DataError:
    """The error for a file that does not hold what its data set's files hold."""
    return DataError(f"{path}: not of the expected form: {form}")


def rows_of(path: Path, rows: Any, form: str) -> list[dict[str, Any]]:
    """`rows` if it is a list of objects, else the error of `of_form`."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise of_form(path, form)
    return rows


def clipped_box(corners: tuple[float, float, float, float], width: int, height: int) -> Box:
    """(x1, y1, x2, y2) in pixels -> Box, what lies outside of the image cut off. DataError where nothing is left."""
    x1, y1, x2, y2 = corners
    x1, x2 = max(0.0, x1), min(float(width), x2)
    y1, y2 = max(0.0, y1), min(float(height), y2)
    if x2 <= x1 or y2 <= y1:
        raise DataError("box has no area inside the image")
    box = box_from_pixels((x1, y1, x2, y2), width, height)
    if box.x1 == box.x2 or box.y1 == box.y2:
        raise DataError("box is thinner than a thousandth of the image")
    return box
