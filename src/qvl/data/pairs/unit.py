"""What a worker reads at once, and what it finds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl.data.raw import printable


@dataclass(frozen=True)
class Unit:
    """A piece of the input that one worker reads at once: a whole tar, or [start, stop) of a larger file.

    start and stop count row groups (parquet), bytes (lines), images (annotations, folder) or rows (table).
    """

    kind: str
    path: Path
    name: str  # the path from the input's own name on: stays the same when the data moves
    start: int = 0
    stop: int = 0
    names: tuple[str, ...] = ()  # folder: the image files
    offsets: tuple[int, ...] = ()  # table: the byte at which row `start` begins, in each of its files

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))

    @property
    def label(self) -> str:
        """For reports."""
        return f"{self.name}[{self.start}:{self.stop}]" if self.stop else self.name


@dataclass(frozen=True)
class RawPair:
    """One row as found: fields by column name, the image's bytes, or where its file is."""

    key: str
    fields: dict[str, Any] = field(repr=False)
    image: bytes | Path = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", printable(self.key))
