"""Leave out pictures that came before, and those too close to evaluation pictures.

Beyond the paper, so never by itself.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qvl import images
from qvl.data.engine import run_jobs
from qvl.data.held_out import NEAR_EVALUATION, HeldOut, read_held_out
from qvl.data.likeness import DISTANCE, HashIndex, picture_hash
from qvl.data.sample import Sample, read_shard, shard_paths, write_shard
from qvl.errors import ImageError, UsageError
from qvl.files import replacing, write_text

REMOVED_NAME = "removed.jsonl"
NEAR_DUPLICATE = "near duplicate"


@dataclass(frozen=True)
class Removed:
    """A sample that was left out: which other picture its own is like, and by how many bits they differ."""

    id: str
    row: str
    why: str
    like: str
    distance: int


@dataclass
class DedupReport:
    """What became of a split's samples."""

    samples: int = 0
    kept: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    held_out: HeldOut = field(default_factory=HeldOut)

    def summary(self) -> str:
        """For the terminal."""
        lines = [f"{self.samples:,} samples, {self.kept:,} kept", *self.held_out.summary_lines()]
        lines += [f"  removed {count:,}: {why}" for why, count in self.removed.most_common()]
        return "\n".join(lines)


def dedup_split(
    split_dir: Path,
    out_dir: Path,
    *,
    against: Sequence[Path] = (),
    distance: int = DISTANCE,
    workers: int | None = None,
) -> DedupReport:
    """Copy a split's shards without near duplicates, and without samples that show an evaluation picture.

    Of captioned pictures that are alike the first is kept; other tasks ask many questions about one picture, so that
    they are compared with the evaluation pictures alone. `against`: what `read_held_out` reads.
    OUT/removed.jsonl lists what was removed and why. Raises UsageError when out_dir is not empty.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        raise UsageError(f"{out_dir}: not empty; choose another folder")
    report = DedupReport(held_out=read_held_out(against, distance))
    seen = HashIndex(distance)
    paths = shard_paths(split_dir)
    removed: list[Removed] = []
    plan: list[tuple[Path, Path, frozenset[int]]] = []
    for path, rows in zip(paths, run_jobs(_hash_shard, paths, "hashes", workers=workers), strict=True):
        report.samples += len(rows)
        gone = dict(_gone(rows, report.held_out, seen))
        removed += gone.values()
        plan.append((path, out_dir / path.name, frozenset(gone)))
    report.removed.update(item.why for item in removed)
    try:
        report.kept = sum(run_jobs(_copy_without, plan, "copy", workers=workers))
        lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in removed)
        write_text(out_dir / REMOVED_NAME, lines)
    except BaseException:
        shutil.rmtree(out_dir, ignore_errors=True)  # half a split looks like a whole one
        raise
    return report


Row = tuple[str, str, str, tuple[int | None, ...]]  # id, row, task, a hash per picture


def _gone(rows: list[Row], held_out: HeldOut, seen: HashIndex) -> Iterator[tuple[int, Removed]]:
    """(place in the shard, why) of the samples that are left out; the others' pictures are remembered."""
    for place, (sample_id, row, task, hashes) in enumerate(rows):
        known = [value for value in hashes if value is not None]
        if found := next(filter(None, map(held_out.index.find, known)), None):
            yield place, Removed(sample_id, row, NEAR_EVALUATION, *found)
        elif task == "caption" and known:
            if found := seen.find(known[0]):
                yield place, Removed(sample_id, row, NEAR_DUPLICATE, *found)
            else:
                seen.add(known[0], sample_id)


def _hash_shard(path: Path) -> list[Row]:
    return [(s.id, str(s.provenance.get("row", "")), s.task, _hashes(s, path)) for s in read_shard(path)]


def _hashes(sample: Sample, path: Path) -> tuple[int | None, ...]:
    try:
        return tuple(picture_hash(images.load(picture)) for picture in sample.images)
    except ImageError as error:
        raise ImageError(f"{path} sample {sample.id}: {error}; see `qvl data lint`", error.kind) from error


def _copy_without(job: tuple[Path, Path, frozenset[int]]) -> int:
    path, target, gone = job
    if not gone:
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
        return sum(1 for _ in read_shard(path))
    kept: Iterator[Sample] = (sample for place, sample in enumerate(read_shard(path)) if place not in gone)
    return write_shard(kept, target)
