"""Captions in files apart from their pictures: COCO's, Karpathy's and SBU's JSON, tables of captions and addresses.

COCO and Karpathy's Flickr30K name each picture's file. The tables (CC3M, CC12M, SBU) hold addresses; their pictures
are looked for at any depth of a folder by the number of the row, counted from 0 (17.jpg, 00012/000000017.png), as
downloaders name them; SBU's also by the last part of the address, as torchvision's SBU does.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from qvl import images
from qvl.data.damage import Damage
from qvl.data.pairs.unit import RawPair, Unit
from qvl.data.raw import parse_json
from qvl.data.splits import OTHER_SPLIT, names_other_split
from qvl.errors import DataError, UsageError

SBU_ADDRESSES = "SBU_captioned_photo_dataset_urls.txt"
SBU_CAPTIONS = "SBU_captioned_photo_dataset_captions.txt"
TABLE_HEADER = {"caption", "url"}  # CC3M and CC12M have none, but img2dataset's guide has one put in
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Annotated:
    """A picture's captions; its file below the folder of pictures, or the names that it may have there."""

    key: str
    fields: dict[str, Any]
    file: str | None = None
    names: tuple[str, ...] = field(default=())


def annotation_units(path: Path, name: str, size: int) -> Iterator[Unit]:
    """Runs of `size` pictures of a JSON file; one that can't be read is one unit and fails there."""
    try:
        count = len(_annotated(path, path.stat().st_mtime_ns))
    except DataError:
        count = 0
    for start in range(0, max(count, 1), size):
        yield Unit("annotations", path, name, start, min(start + size, count))


def read_annotations(unit: Unit, root: Path) -> Iterator[RawPair | Damage]:
    """The unit's pictures with their captions, and the rows that can't be read."""
    try:
        rows = _annotated(unit.path, unit.path.stat().st_mtime_ns)
    except DataError as error:
        yield Damage("file can't be read", unit.path.name, str(error), rows=0)
        return
    for row in rows[unit.start : unit.stop]:
        yield row if isinstance(row, Damage) else _paired(row, root)


@lru_cache(maxsize=1)
def _annotated(path: Path, changed: int) -> list[Annotated | Damage]:
    """All rows of a JSON file; kept, as many units read it. `changed`: when the file last did."""
    try:
        match parse_json(path.read_bytes()):
            case {"images": [*pictures], "annotations": [*captions]}:
                return _coco(pictures, captions)
            case {"images": [{"sentences": _}, *_] as pictures}:
                return [_karpathy(picture) for picture in pictures]
            case {"image_urls": [*addresses], "captions": [*captions]} if len(addresses) == len(captions):
                return [_numbered(row, *both) for row, both in enumerate(zip(addresses, captions, strict=True))]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not of the form of COCO's or Karpathy's captions: {error!r}") from error
    raise DataError(
        f"{path}: none of images (id, file_name) and annotations (image_id, caption), images (filename, split, "
        "sentences), image_urls and as many captions"
    )


def _coco(pictures: list[Any], captions: list[Any]) -> list[Annotated | Damage]:
    """COCO's caption annotations: one row per picture, with all of its captions."""
    by_picture: dict[Any, list[Any]] = {}
    for annotation in captions:
        by_picture.setdefault(annotation["image_id"], []).append(annotation["caption"])
    rows: list[Annotated | Damage] = []
    for picture in pictures:
        key, file = str(picture["id"]), picture["file_name"]
        if names_other_split(address := f"{picture.get('coco_url') or ''} {file}"):  # 2017's names don't say it
            rows.append(Damage(OTHER_SPLIT, key, address.strip()))
        else:
            rows.append(Annotated(key, {"caption": by_picture.get(picture["id"])}, file))
    listed = {picture["id"] for picture in pictures}
    rows += [Damage("captions of a picture that is not listed", str(key)) for key in by_picture if key not in listed]
    return rows


def _karpathy(picture: Any) -> Annotated | Damage:
    """An entry of dataset_flickr30k.json (dataset_coco.json, whose pictures lie in two folders, has the same form)."""
    file = str(PurePosixPath(picture.get("filepath", ""), picture["filename"]))
    if picture["split"] != "train":
        return Damage(OTHER_SPLIT, file, str(picture["split"]))
    return Annotated(file, {"caption": [sentence["raw"] for sentence in picture["sentences"]]}, file)


def _numbered(row: int, address: Any, caption: Any) -> Annotated:
    """A row of SBU."""
    address = str(address).strip()
    return Annotated(str(row), {"caption": caption, "url": address}, names=(str(row), PurePosixPath(address).stem))


def _paired(row: Annotated, root: Path) -> RawPair | Damage:
    if row.file is not None:
        return RawPair(row.key, row.fields, root / row.file)
    pictures = _pictures_by_name(root)
    path = next((pictures[name] for name in row.names if name in pictures), None)
    if path is None:
        return Damage("missing image", row.key, f"no file {' or '.join(row.names)} under {root}")
    if _of_another_row(path, row.fields["url"]):
        return Damage("picture of another row", row.key, f"{path.with_suffix('.json')} has another url")
    return RawPair(row.key, row.fields, path)


def _of_another_row(picture: Path, address: str) -> bool:
    """Whether img2dataset's metadata beside a picture name another address: its file names are the numbers of the rows
    only where its shards hold a power of ten."""
    try:
        found = parse_json(picture.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("url") not in (None, address)


@lru_cache(maxsize=1)
def _pictures_by_name(root: Path) -> dict[str, Path]:
    """Picture files at any depth by their names without suffix, numbers without leading zeros."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in images.SUFFIXES):
        name = str(int(path.stem)) if path.stem.isascii() and path.stem.isdigit() else path.stem
        if name in found:
            raise UsageError(f"{found[name]} and {path}: two pictures of row {name}; give the folder of one download")
        found[name] = path
    if not found:
        raise UsageError(f"{root}: no pictures here; say with --images where those of the table are")
    return found


def table_units(path: Path, name: str, size: int) -> Iterator[Unit]:
    """Runs of `size` rows of a table, with the bytes at which they begin.

    UsageError without SBU's second file, and where it has another number of lines: no caption would be sure; also for
    a table that is not for training.
    """
    if names_other_split(path.name):
        raise UsageError(f"{path}: {OTHER_SPLIT}; give the train file")
    parts = _table_files(path)
    if not parts[-1].exists():
        raise UsageError(f"{parts[-1]}: not there; it belongs beside {path.name}")
    starts, counts = zip(*(_row_places(part, size) for part in parts), strict=True)
    if len(set(counts)) > 1:
        raise UsageError(f"{parts[-1]}: {counts[-1]} lines, {path.name} has {counts[0]}; get both files anew")
    for number, offsets in enumerate(zip(*starts, strict=True)):
        yield Unit("table", path, name, number * size, min((number + 1) * size, counts[0]), offsets=offsets)
    if not counts[0]:
        yield Unit("table", path, name)


def _row_places(path: Path, size: int) -> tuple[list[int], int]:
    """The bytes at which every `size`-th row begins, and the number of rows."""
    places, rows = [], 0
    with path.open("rb") as file:
        place = len(first) if set(_fields(first := file.readline())) == TABLE_HEADER else 0
        file.seek(place)
        for line in file:
            if rows % size == 0:
                places.append(place)
            place += len(line)
            rows += 1
    return places, rows


def read_table(unit: Unit, root: Path) -> Iterator[RawPair | Damage]:
    """The unit's rows, each with the picture of its number."""
    if not unit.stop:
        yield Damage("empty file", unit.label, rows=0)
        return
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in _table_files(unit.path)]
        for file, offset in zip(files, unit.offsets, strict=True):
            file.seek(offset)
        for row in range(unit.start, unit.stop):
            found = _table_row(row, [file.readline() for file in files])
            yield found if isinstance(found, Damage) else _paired(found, root)


def _table_files(path: Path) -> list[Path]:
    return [path, path.with_name(SBU_CAPTIONS)] if path.name == SBU_ADDRESSES else [path]


def _fields(line: bytes) -> list[str]:
    """The columns of a line. Empty for one that is not UTF-8."""
    try:
        return line.decode("utf-8").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        return []


def _table_row(row: int, lines: list[bytes]) -> Annotated | Damage:
    """SBU: a line of each file; CC12M: address, caption; CC3M: caption, address."""
    parts = [_fields(line) for line in lines]
    if not all(parts):
        return Damage("caption is not UTF-8", str(row))
    columns = [column for part in parts for column in part]
    if len(columns) > 1 and _ADDRESS.match(columns[0]):
        address, caption = columns[0], "\t".join(columns[1:])
    elif len(columns) > 1 and _ADDRESS.match(columns[1]):
        caption, address = columns[:2]
    else:
        return Damage("row is not a caption and an address", str(row), "\t".join(columns)[:80])
    if len(lines) > 1:
        return _numbered(row, address, caption)
    return Annotated(str(row), {"caption": caption, "url": address}, names=(str(row),))
