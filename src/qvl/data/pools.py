"""Shards -> an endless shuffled stream of the samples of one task, in bounded memory.

A shard's row groups are parts. Every epoch takes the parts in a new order, a window of neighbouring parts at a time,
and the samples of a window in a new order: two levels of shuffling, with one window in memory. Which sample comes as
number n is a function of the seed, the shards and n alone, so that a stream can be entered anywhere.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from qvl.data.sample import SCHEMA, Sample, from_row, shard_paths
from qvl.errors import DataError

PARTS_PER_STREAM = 32  # of a task; with fewer, the streams share the samples of every part instead of the parts

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Some rows of one row group of a shard: those of one task that belong to one stream."""

    path: Path
    group: int
    rows: Places


def find_parts(split_dirs: Sequence[Path], tasks: Sequence[str]) -> dict[str, list[Part]]:
    """Task -> its parts. Reads the shards' footers alone where a row group holds one task.

    DataError names what can't be read, and a task without samples.
    """
    parts: dict[str, list[Part]] = {task: [] for task in tasks}
    for path in (path for directory in split_dirs for path in shard_paths(directory)):
        for group, rows_of in enumerate(_tasks_of_groups(path)):
            for task, rows in rows_of.items():
                if task in parts:
                    parts[task].append(Part(path, group, rows))
    for task, found in parts.items():
        if not found:
            where = ", ".join(map(str, split_dirs))
            raise DataError(f"{where}: no sample of task {task!r}, which the mixture asks for")
    return parts


def share(parts: list[Part], stream: int, streams: int) -> list[Part]:
    """Of a task's parts those of one of `streams` streams, which together have every sample once: whole parts in turn
    where there are many, else rows in turn. DataError where there is not a sample for each stream."""
    if len(parts) >= PARTS_PER_STREAM * streams:
        return parts[stream::streams]
    mine, dealt = [], 0
    for part in parts:
        rows = part.rows[(stream - dealt) % streams :: streams]
        dealt += len(part.rows)
        if len(rows):
            mine.append(Part(part.path, part.group, rows))
    if not mine:
        raise DataError(f"{parts[0].path.parent}: {dealt} samples of a task can't be shared by {streams} streams")
    return mine


def fingerprint(parts: Mapping[str, list[Part]]) -> str:
    """Of the shards that hold the parts: their names, sizes and rows. Another one: the order is another too."""
    shards = {part.path for found in parts.values() for part in found}
    rows = {task: [len(part.rows) for part in found] for task, found in sorted(parts.items())}
    files = sorted((path.parent.name, path.name, path.stat().st_size) for path in shards)
    return hashlib.sha256(repr((files, rows)).encode()).hexdigest()[:16]


def _tasks_of_groups(path: Path) -> list[dict[str, Places]]:
    """Of each row group: task -> its rows."""
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in SCHEMA.names if name not in file.schema_arrow.names]:
                raise DataError(f"{path}: not a shard of samples: no column {', '.join(missing)}")
            return [_tasks_of_group(file, group) for group in range(file.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable shard ({error}); delete it and write it again") from error


def _tasks_of_group(file: pq.ParquetFile, group: int) -> dict[str, Places]:
    metadata = file.metadata.row_group(group)
    column = next(i for i in range(len(file.schema)) if file.schema.column(i).path == "task")
    limits = metadata.column(column).statistics
    if limits is not None and limits.has_min_max and limits.min == limits.max:
        return {limits.min: np.arange(metadata.num_rows)}
    tasks = np.array(file.read_row_group(group, columns=["task"])["task"].to_pylist())
    return {str(task): np.flatnonzero(tasks == task) for task in np.unique(tasks)}


class Pool:
    """The samples of one task of one stream, shuffled anew in every epoch."""

    def __init__(self, parts: Sequence[Part], window_size: int, seed: tuple[int, ...]) -> None:
        """window_size: samples that are in memory, at least; a part is never divided."""
        self.parts, self.window_size, self.seed = parts, window_size, seed
        self.size = sum(len(part.rows) for part in parts)
        self._epoch = -1
        self._window: tuple[int, int] = (-1, -1)  # (epoch, which) that is in memory

    def __len__(self) -> int:
        return self.size

    def sample(self, number: int) -> Sample:
        """The sample that comes as number `number` of the endless stream."""
        epoch, place = divmod(number, self.size)
        self._enter(epoch)
        which = int(np.searchsorted(self._starts, place, side="right")) - 1
        if self._window != (epoch, which):
            self._load(which)
            self._window = (epoch, which)
        row = self._order[place - self._starts[which]]
        return from_row(self._table.slice(int(row), 1).to_pylist()[0])

    def _enter(self, epoch: int) -> None:
        """Lay out the windows of an epoch: the parts in their order, and the place at which each window starts."""
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._windows: list[list[Part]] = []
        starts: list[int] = []
        place = 0
        for index in np.random.default_rng((*self.seed, epoch)).permutation(len(self.parts)):
            part = self.parts[index]
            if not starts or place - starts[-1] + len(part.rows) > self.window_size:
                self._windows.append([])
                starts.append(place)
            self._windows[-1].append(part)
            place += len(part.rows)
        self._starts = np.array(starts)

    def _load(self, which: int) -> None:
        self._table = pa.table({})  # the old window goes first: two at once would be too much
        self._table = pa.concat_tables([_read(part) for part in self._windows[which]])
        self._order = np.random.default_rng((*self.seed, self._epoch, which)).permutation(len(self._table))


def _read(part: Part) -> pa.Table:
    try:
        with pq.ParquetFile(part.path) as file:
            return file.read_row_group(part.group, columns=SCHEMA.names).take(part.rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{part.path}: row group {part.group} can't be read ({error}); write the shard again"
        ) from error
