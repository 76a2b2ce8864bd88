"""What every reader gives: exchanges about an image, its boxes still in the measure of its data set."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl.data.damage import Damage
from qvl.data.raw import parse_json, told_apart
from qvl.data.splits import OTHER_SPLIT
from qvl.errors import DataError, ImageError
from qvl.text.markup import Box, Content, box_from_pixels

Exchange = tuple[Content, Content]  # prefix, answer
NOT_UTF8 = "text is not Unicode"
CLIPPED = "boxes cut at the picture's edge"  # in a report's statistics


@dataclass
class Frame:
    """A picture's size in pixels, and how many boxes reached over its edge."""

    width: int
    height: int
    clipped: int = 0

    def box(self, corners: tuple[float, float, float, float]) -> Box:
        """(x1, y1, x2, y2) in pixels -> Box, what lies outside of the image cut off and counted. DataError where
        nothing is left."""
        x1, y1, x2, y2 = corners
        inside = (max(0.0, x1), max(0.0, y1), min(float(self.width), x2), min(float(self.height), y2))
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            raise DataError("box has no area inside the image")
        box = box_from_pixels(inside, self.width, self.height)
        if box.x1 == box.x2 or box.y1 == box.y2:
            raise DataError("box is thinner than a thousandth of the image")
        self.clipped += inside != corners
        return box


@dataclass(frozen=True)
class Annotation:
    """One exchange about one image. `exchange` makes it once the image's size is known; a DataError from it drops this
    annotation and names why."""

    key: str
    task: str
    image: Path | bytes = field(repr=False)
    exchange: Callable[[Frame], Exchange] = field(repr=False)


@dataclass(frozen=True)
class Statistics:
    """What a reader counts of its rows beside the samples, for the report."""

    counts: Counter[str]


Annotations = Iterator[Annotation | Statistics | Damage]


def fixed(prefix: Content, answer: Content) -> Callable[[Frame], Exchange]:
    """An exchange that does not depend on the image's size."""
    return lambda frame: (prefix, answer)


def other_split(key: str, split: object, picture: Path, rows: int = 1) -> Damage:
    """A row that is not for training; its picture is remembered, so that other data sets can leave it out too."""
    return Damage(OTHER_SPLIT, key, str(split), rows, str(picture.absolute()))


def read_json(path: Path) -> Any:
    """A whole JSON file. DataError names a file that is missing or not JSON."""
    try:
        return parse_json(path.read_bytes())
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
    """What samples call their file: its name, with folders where several have that name."""
    names = told_apart({path.resolve(): path.name for path in files})
    return [names[path.resolve()] for path in files]


def of_form(path: Path, form: str) -> DataError:
    """The error for a file that does not hold what its data set's files hold."""
    return DataError(f"{path}: not of the expected form: {form}")


def rows_of(path: Path, rows: Any, form: str) -> list[dict[str, Any]]:
    """`rows` if it is a list of objects, else the error of `of_form`."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise of_form(path, form)
    return rows
