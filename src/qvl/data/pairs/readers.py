"""Files of image-text pairs -> raw pairs: img2dataset's tars, Parquet, JSON lines, annotation files, plain folders.

Whatever can't be read comes out as a Damage in its place, never as an exception: one broken file among thousands
is counted, and the rest goes on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qvl import images
from qvl.data.damage import Damage
from qvl.data.pairs.annotations import SBU_ADDRESSES, annotation_units, read_annotations, read_table, table_units
from qvl.data.pairs.archive import Member, read_members
from qvl.data.pairs.unit import RawPair, Unit
from qvl.data.raw import parse_json
from qvl.errors import UsageError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
BYTES_COLUMNS = ("jpg", "jpeg", "png", "webp", "image", "image_bytes")
PATH_COLUMNS = ("image_path", "file_name", "path", "image", "image_file")
BYTES_PER_UNIT = 32 << 20
ROWS_PER_UNIT = 10_000
READ_BATCH = 256


def find_units(inputs: Sequence[Path]) -> list[Unit]:
    """The units of files and folders, in a fixed order. UsageError for a path that holds nothing to read.

    In a folder, tars, Parquet and JSON lines are read at any depth; one without them is read as images with a
    .txt or .json file beside each. The Parquet that img2dataset writes beside a tar, or beside a folder of files, is
    its log, not data. Captions in files of their own (annotations) are given as those files.
    """
    units: list[Unit] = []
    for path in inputs:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        found = list(_units_of_folder(path)) if path.is_dir() else list(_units_of_file(path, path.name))
        if not found:
            raise UsageError(f"{path}: no .tar, .parquet, .jsonl, .json, .tsv or images with captions here")
        units += found
    labels = [unit.label for unit in units]
    if (
        twice := next((label for label in labels if labels.count(label) > 1), None)
        if len(set(labels)) < len(labels)
        else None
    ):
        raise UsageError(f"{twice}: two inputs have this name; give the folder that holds both")
    return units


def _units_of_folder(folder: Path) -> Iterator[Unit]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    stats = "_stats.json"
    logged = {p.with_suffix("") for p in files if p.suffix == ".tar"}
    logged |= {p.with_name(p.name.removesuffix(stats)) for p in files if p.name.endswith(stats)}
    tables = [
        p
        for p in files
        if p.name.endswith((*TAR_SUFFIXES, ".parquet", ".jsonl"))
        and not (p.suffix == ".parquet" and p.with_suffix("") in logged)
    ]
    for path in tables:
        yield from _units_of_file(path, _name(path, folder))
    if not tables:
        names = [str(p.relative_to(folder)) for p in files if p.suffix.lower() in images.SUFFIXES]
        for start in range(0, len(names), ROWS_PER_UNIT):
            part = tuple(names[start : start + ROWS_PER_UNIT])
            yield Unit("folder", folder, folder.resolve().name, start, start + len(part), part)


def _name(path: Path, folder: Path) -> str:
    return str(Path(folder.resolve().name, path.relative_to(folder)))


def _units_of_file(path: Path, name: str) -> Iterator[Unit]:
    if path.name.endswith(TAR_SUFFIXES):
        yield Unit("tar", path, name)
    elif path.suffix == ".parquet":
        yield from _row_groups(path, name)
    elif path.suffix == ".jsonl":
        size = path.stat().st_size
        for start in range(0, max(size, 1), BYTES_PER_UNIT):
            yield Unit("lines", path, name, start, min(start + BYTES_PER_UNIT, size))
    elif path.suffix == ".json":
        yield from annotation_units(path, name, ROWS_PER_UNIT)
    elif path.suffix == ".tsv" or path.name == SBU_ADDRESSES:
        yield from table_units(path, name, ROWS_PER_UNIT)


def _row_groups(path: Path, name: str) -> Iterator[Unit]:
    """Runs of row groups of about ROWS_PER_UNIT rows; a file that can't be opened is one unit and fails there."""
    try:
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except (pa.ArrowException, OSError):
        sizes = []
    start = rows = 0
    for number, size in enumerate(sizes, 1):
        rows += size
        if rows >= ROWS_PER_UNIT or number == len(sizes):
            yield Unit("parquet", path, name, start, number)
            start, rows = number, 0
    if not sizes:
        yield Unit("parquet", path, name)


def read_unit(unit: Unit, image_root: Path | None = None) -> Iterator[RawPair | Damage]:
    """The unit's pairs in order, and what could not be read. Relative image paths start at image_root, or
    at the folder of the file that names them."""
    root = image_root or (unit.path if unit.path.is_dir() else unit.path.parent)
    match unit.kind:
        case "tar":
            yield from _read_tar(unit.path)
        case "parquet":
            yield from _read_parquet(unit, root)
        case "lines":
            yield from _read_lines(unit, root)
        case "annotations":
            yield from read_annotations(unit, root)
        case "table":
            yield from read_table(unit, root)
        case _:
            yield from _read_folder(unit)


def _read_tar(path: Path) -> Iterator[RawPair | Damage]:
    """Members with one stem are one pair, as webdataset groups them."""
    group: list[Member] = []
    for member in read_members(path):
        if isinstance(member, Damage):
            yield member
            continue
        if group and member.stem != group[0].stem:
            yield _pair_of_members(group)
            group = []
        group.append(member)
    if group:
        yield _pair_of_members(group)


def _pair_of_members(group: list[Member]) -> RawPair | Damage:
    key = group[0].stem
    by_suffix = {member.suffix: member.data for member in group}
    image = next((data for suffix, data in by_suffix.items() if f".{suffix}" in images.SUFFIXES), None)
    fields = _sidecars(key, by_suffix.get("json"), by_suffix.get("txt"))
    if isinstance(fields, Damage):
        return fields
    return Damage("no image", key) if image is None else RawPair(key, fields, image)


def _sidecars(key: str, metadata: bytes | None, caption: bytes | None) -> dict[str, Any] | Damage:
    """Fields of a pair from the .json and .txt beside its image."""
    fields: dict[str, Any] = {}
    if metadata is not None:
        try:
            fields = parse_json(metadata)
        except ValueError as error:
            return Damage("metadata is not JSON", key, str(error))
        if not isinstance(fields, dict):
            return Damage("metadata is not JSON", key, f"a {type(fields).__name__}, not an object")
    if caption is not None:
        try:
            fields["txt"] = caption.decode("utf-8")
        except UnicodeDecodeError as error:
            return Damage("caption is not UTF-8", key, str(error))
    return fields


def _read_parquet(unit: Unit, root: Path) -> Iterator[RawPair | Damage]:
    try:
        file = pq.ParquetFile(unit.path)
    except (pa.ArrowException, OSError) as error:
        kind = "file can't be read" if unit.path.stat().st_size else "empty file"
        yield Damage(kind, unit.label, str(error), rows=0)
        return
    with file:
        for group in range(unit.start, unit.stop):
            row = 0
            try:
                for batch in file.iter_batches(READ_BATCH, row_groups=[group]):
                    for fields in batch.to_pylist():
                        yield _pair_of_fields(f"{group}.{row}", fields, root)
                        row += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                lost = file.metadata.row_group(group).num_rows - row
                yield Damage("row group can't be read", f"row group {group}", str(error), rows=lost)


def _read_lines(unit: Unit, root: Path) -> Iterator[RawPair | Damage]:
    """The lines that begin in [start, stop)."""
    if not unit.stop:
        yield Damage("empty file", unit.label, rows=0)
        return
    with unit.path.open("rb") as file:
        if unit.start:
            file.seek(unit.start - 1)
            file.readline()  # the line that began before belongs to the unit before
        while (position := file.tell()) < unit.stop:
            line = file.readline()
            key = f"byte {position}"
            if not line.strip():
                continue
            try:
                fields = parse_json(line)
            except ValueError as error:
                yield Damage("line is not JSON", key, str(error))
                continue
            if isinstance(fields, dict):
                yield _pair_of_fields(key, fields, root)
            else:
                yield Damage("line is not JSON", key, f"a {type(fields).__name__}, not an object")


def _pair_of_fields(key: str, fields: dict[str, Any], root: Path) -> RawPair | Damage:
    key = str(fields.get("key") or key)
    for column in BYTES_COLUMNS:
        value = fields.get(column)
        if isinstance(value, dict):  # the form in which Hugging Face's datasets keeps images
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return RawPair(key, fields, value)
    for column in PATH_COLUMNS:
        value = fields.get(column)
        if isinstance(value, dict):
            value = value.get("path")
        if isinstance(value, str) and value:
            return RawPair(key, fields, root / value)
    return Damage("no image", key, f"looked for {', '.join(dict.fromkeys(BYTES_COLUMNS + PATH_COLUMNS))}")


def _read_folder(unit: Unit) -> Iterator[RawPair | Damage]:
    for name in unit.names:
        path = unit.path / name
        metadata, caption = (
            beside.read_bytes() if beside.exists() else None
            for beside in (path.with_suffix(".json"), path.with_suffix(".txt"))
        )
        fields = _sidecars(name, metadata, caption)
        yield fields if isinstance(fields, Damage) else RawPair(name, fields, path)
