"""What could not be read, as a value: readers go on behind it, and whoever runs them counts it."""

from dataclasses import dataclass

from qvl.data.raw import printable


@dataclass(frozen=True)
class Damage:
    """Something that could not be read: its kind, for counting, where, and what the reader said.

    rows: how many rows it cost; 0 where a whole file is damaged and nobody knows what it held. picture: of a row of
    another split, the file that it is about.
    """

    kind: str
    key: str
    detail: str = ""
    rows: int = 1
    picture: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", printable(self.key))
        object.__setattr__(self, "detail", printable(self.detail))
