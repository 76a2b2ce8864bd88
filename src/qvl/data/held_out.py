"""Pictures of evaluation sets: no training sample may show one of them, whatever its data set or split calls it.

COCO's train2014 holds the test pictures of RefCOCO, Visual Genome holds pictures of COCO's val2014: a split's name is
not enough, so that the pictures themselves are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qvl import images
from qvl.data.likeness import DISTANCE, HashIndex, picture_hash
from qvl.data.sample import read_shard
from qvl.errors import ImageError, UsageError

NEAR_EVALUATION = "close to an evaluation picture"
EXAMPLES = 3  # of the pictures that could not be read


@dataclass
class HeldOut:
    """Evaluation pictures by their hashes, and those that can't be compared."""

    pictures: int = 0
    unreadable: list[str] = field(default_factory=list)
    index: HashIndex = field(default_factory=lambda: HashIndex(DISTANCE), repr=False)

    def find(self, picture: bytes) -> tuple[str, int] | None:
        """(name, bits that differ) of the evaluation picture that an encoded picture is like."""
        value = picture_hash(images.load(picture)) if self.pictures else None
        return None if value is None else self.index.find(value)

    def summary_lines(self) -> list[str]:
        """For the terminal."""
        if not self.pictures:
            return ["  not compared with evaluation pictures: name them with --against"]
        lines = [f"  compared with {self.pictures:,} evaluation pictures"]
        if self.unreadable:
            lines.append(f"  not compared, {len(self.unreadable):,} unreadable evaluation pictures, such as:")
        return lines + [f"    {name}" for name in self.unreadable[:EXAMPLES]]


def read_held_out(places: Sequence[Path], distance: int = DISTANCE) -> HeldOut:
    """Evaluation pictures of folders of image files or shards, and of lists: .txt, a picture's path on each line,
    from the list's own folder on.

    UsageError for a place without a picture that can be read.
    """
    held_out = HeldOut(index=HashIndex(distance))
    for place in places:
        before = held_out.pictures
        for name, picture in _pictures(place):
            try:
                value = picture_hash(images.load(picture))
            except ImageError as error:
                held_out.unreadable.append(f"{name}: {error}")
                continue
            held_out.pictures += 1
            if value is not None:
                held_out.index.add(value, name)
        if held_out.pictures == before:
            raise UsageError(f"{place}: no picture that can be read; give a folder of images or shards, or a .txt list")
    return held_out


def _pictures(place: Path) -> Iterator[tuple[str, Path | bytes]]:
    if place.suffix == ".txt" and place.is_file():
        try:
            names = place.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UsageError(f"{place}: not a list in UTF-8 ({error})") from error
        yield from ((name, place.parent / name) for name in names if name.strip())
        return
    for path in sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if path.suffix.lower() in images.SUFFIXES:
            yield str(path), path
        elif path.suffix == ".parquet":
            for sample in read_shard(path):
                yield from ((f"{path}#{sample.id}", picture) for picture in sample.images)
