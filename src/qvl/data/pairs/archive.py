"""The members of a tar, and what is wrong with it: nothing is skipped silently."""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl.data.damage import Damage

BLOCK = 512


@dataclass(frozen=True)
class Member:
    """One file of an archive. Its stem ends at the first dot of its name, as in webdataset."""

    name: str
    data: bytes = field(repr=False)

    @property
    def stem(self) -> str:
        folder, slash, name = self.name.rpartition("/")
        return f"{folder}{slash}{name.split('.', 1)[0]}"

    @property
    def suffix(self) -> str:
        return self.name.rpartition("/")[2].partition(".")[2].lower()


def read_members(path: Path) -> Iterator[Member | Damage]:
    """Files of a tar in order; a broken header costs the members up to the next good one, a cut end what is missing."""
    if not path.stat().st_size:
        yield Damage("empty file", path.name, rows=0)
        return
    end = 0  # of the last good member
    try:
        with tarfile.open(path, "r:*", ignore_zeros=True) as archive:  # ignore_zeros: go on behind a broken header
            while True:
                member = archive.next()
                yield from _gap(archive.fileobj, end, member.offset if member else None, path.name)
                if member is None:
                    return
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK if member.isreg() else member.offset_data
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield Member(member.name, file.read())
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        yield Damage("archive cut short" if end else "file can't be read", path.name, str(error), rows=0)


def _gap(file: Any, start: int, stop: int | None, name: str) -> Iterator[Damage]:
    """What lies between two members, or behind the last: nothing but zeros, or a header was broken there."""
    if stop == start:
        return
    position = file.tell()
    file.seek(start)
    between = file.read(stop - start if stop is not None else -1)
    file.seek(position)
    if not start and stop is None:
        yield Damage("file can't be read", name, "no archive member in it", rows=0)
    elif stop is None and (len(between) < 2 * BLOCK or len(between) % BLOCK):
        yield Damage("archive cut short", name, "the two empty blocks at its end are missing", rows=0)
    elif between.strip(b"\0"):
        yield Damage("broken archive member", f"{name} byte {start}", f"{len(between)} bytes passed over", rows=0)
