"""The one record that flows through the project, and its shards on disk.

A shard is a Parquet file, one row per sample, image bytes inside; a split is a folder of shards. Parquet
is columnar (rules read only the columns they need), compressed, and every tool opens it.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qvl.errors import DataError, TextError, UsageError
from qvl.files import replacing
from qvl.text.markup import Content, from_json, to_json

TASKS = (
    "caption",
    "vqa",
    "grounding",
    "referring",
    "grounded_caption",
    "region_caption",
    "ocr",
    "text",
    "dialogue",
)
LANGUAGES = ("en", "zh")
ROLES = ("system", "user", "assistant")
ROW_GROUP = 256  # samples
SHARD_SIZE = 1024  # samples, where a tool has no reason for another

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("language", pa.string()),
        ("images", pa.list_(pa.binary())),
        ("turns", pa.string()),
        ("provenance", pa.string()),
    ]
)
# Encoded images can't be made smaller: no dictionary is looked for and nothing compressed where they are.
_PLAIN, _WORDS = ("images.list.element",), ("id", "task", "language", "turns", "provenance")
STORED = {
    "use_dictionary": ["task", "language"],
    "compression": dict.fromkeys(_WORDS, "zstd") | dict.fromkeys(_PLAIN, "none"),
}


@dataclass(frozen=True)
class Turn:
    """One speaker's content."""

    role: str
    content: Content


@dataclass(frozen=True)
class Sample:
    """One training sample: encoded images, turns, and where it came from.

    Pre-training tasks have a user turn (the prefix, which carries no loss) and an assistant turn (the
    answer, which does), or several such exchanges about the same picture; task "text" may have an
    assistant turn only; "dialogue" has any number of exchanges.
    provenance holds at least source, row and settings.
    """

    id: str
    task: str
    language: str
    images: tuple[bytes, ...]
    turns: tuple[Turn, ...]
    provenance: dict[str, Any] = field(default_factory=dict)


def to_row(sample: Sample) -> dict[str, Any]:
    """Sample -> one Parquet row of SCHEMA."""
    turns = [{"role": t.role, "content": to_json(t.content)} for t in sample.turns]
    return {
        "id": sample.id,
        "task": sample.task,
        "language": sample.language,
        "images": list(sample.images),
        "turns": json.dumps(turns, ensure_ascii=False),
        "provenance": json.dumps(sample.provenance, ensure_ascii=False, sort_keys=True),
    }


def from_row(row: dict[str, Any]) -> Sample:
    """One Parquet row -> Sample. DataError names the sample and what is wrong with it."""
    try:
        turns = tuple(Turn(t["role"], from_json(t["content"])) for t in json.loads(row["turns"]))
        provenance = json.loads(row["provenance"])
        images = tuple(row["images"])
    except (ValueError, KeyError, TypeError, TextError) as error:
        raise DataError(f"sample {row.get('id')!r}: {error!r}; `qvl data lint` names all such samples") from error
    if None in images:
        raise DataError(f"sample {row['id']!r}: an image is missing; `qvl data lint` names all such samples")
    return Sample(row["id"], row["task"], row["language"], images, turns, provenance)


def write_shard(samples: Iterable[Sample], path: Path) -> int:
    """Write one shard atomically, holding a row group of samples at a time; returns the number of samples."""
    remaining, count = iter(samples), 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, **STORED) as writer:
        while rows := [to_row(s) for s in islice(remaining, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            count += len(rows)
    return count


def write_split(samples: Iterable[Sample], folder: Path, prefix: str) -> int:
    """Write shards PREFIX-00000.parquet, ... of SHARD_SIZE samples; returns how many shards."""
    remaining, shards = iter(samples), 0
    while (first := next(remaining, None)) is not None:
        write_shard(chain([first], islice(remaining, SHARD_SIZE - 1)), folder / f"{prefix}-{shards:05d}.parquet")
        shards += 1
    return shards


@contextmanager
def replacing_split(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write shards and reports to; its files take the place of output_dir's shards when the block ends
    well, and output_dir is not made when it does not. UsageError when output_dir holds shards and `overwrite` is not
    set."""
    new = not output_dir.exists()
    old = list(output_dir.glob("*.parquet"))
    if old and not overwrite:
        raise UsageError(f"{output_dir}: already holds {len(old)} shards; choose another folder or overwrite them")
    folder = output_dir / f".{os.getpid()}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
        for path in old:
            path.unlink()
        for path in sorted(folder.iterdir()):
            os.replace(path, output_dir / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new and not any(output_dir.iterdir()):
            output_dir.rmdir()


def shard_paths(directory: Path) -> list[Path]:
    """The shards of a split in order. DataError when there is none."""
    paths = sorted(p for p in directory.glob("*.parquet") if not p.name.startswith("."))
    if not paths:
        raise DataError(f"{directory}: no *.parquet shard here; make one with `qvl world` or `qvl data pdf`")
    return paths


def read_shard(path: Path) -> Iterator[Sample]:
    """Samples of one shard in order. DataError for a file that is not a shard."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable shard ({error}); delete it and write it again") from error
    for row in table.to_pylist():
        yield from_row(row)


def read_split(directory: Path) -> Iterator[Sample]:
    """All samples of a folder of shards, in order."""
    for path in shard_paths(directory):
        yield from read_shard(path)
