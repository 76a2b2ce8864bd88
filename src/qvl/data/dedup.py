"""Leave out pictures that came before, and those too close to evaluation pictures. Beyond the paper; never by itself.

Pictures are compared by a perceptual hash (the signs of 64 low frequencies): scaling, recompression and small changes
of light leave it within a few bits. Flat pictures have no such signs and are never compared.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from qvl import images
from qvl.data.engine import run_jobs
from qvl.data.sample import Sample, read_shard, shard_paths, write_shard
from qvl.errors import ImageError, UsageError
from qvl.files import replacing, write_text

REMOVED_NAME = "removed.jsonl"
NEAR_DUPLICATE = "near duplicate"
NEAR_EVALUATION = "close to an evaluation picture"
BANDS = 4  # of 16 bits each: hashes that differ in at most 7 bits differ in at most one bit of some band
MAX_DISTANCE = 2 * BANDS - 1
HASH_SIDE, PICTURE_SIDE = 8, 32
FLAT = 2.0  # standard deviation of the grey values below which a picture shows nothing


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
    evaluation_pictures: int = 0
    unreadable_evaluation: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """For the terminal."""
        lines = [f"{self.samples:,} samples, {self.kept:,} kept; {self.evaluation_pictures:,} evaluation pictures"]
        lines += [f"  removed {count:,}: {why}" for why, count in self.removed.most_common()]
        lines += [f"  not compared, unreadable: {name}" for name in self.unreadable_evaluation]
        return "\n".join(lines)


def picture_hash(picture: PILImage.Image) -> int | None:
    """64 bits, or None for a flat picture."""
    small = picture.convert("L").resize((PICTURE_SIDE, PICTURE_SIDE), PILImage.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float64)
    if grey.std() < FLAT:
        return None
    waves = _low_waves()
    low = (waves @ grey @ waves.T).ravel()
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@lru_cache(maxsize=1)
def _low_waves() -> np.ndarray:
    """(8, 32): the cosines of the lowest frequencies but the mean."""
    frequency, place = np.arange(1, HASH_SIDE + 1)[:, None], np.arange(PICTURE_SIDE)[None]
    waves: np.ndarray = np.cos(np.pi * frequency * (2 * place + 1) / (2 * PICTURE_SIDE))
    return waves


class HashIndex:
    """Hashes by their bands: finds one within `distance` bits among those added, exactly."""

    def __init__(self, distance: int) -> None:
        if not 0 <= distance <= MAX_DISTANCE:
            raise UsageError(f"distance {distance}: 0 to {MAX_DISTANCE} bits")
        self.distance = distance
        self.bands: list[dict[int, list[tuple[int, str]]]] = [{} for _ in range(BANDS)]

    def add(self, value: int, name: str) -> None:
        """Remember a hash."""
        for band, part in zip(self.bands, _parts(value), strict=True):
            band.setdefault(part, []).append((value, name))

    def find(self, value: int) -> tuple[str, int] | None:
        """(name, bits that differ) of the nearest hash within the distance."""
        best: tuple[int, str] | None = None
        for band, part in zip(self.bands, _parts(value), strict=True):
            for probe in (part, *(part ^ 1 << bit for bit in range(16))):
                for other, name in band.get(probe, ()):
                    bits = (value ^ other).bit_count()
                    if bits <= self.distance and (best is None or bits < best[0]):
                        best = (bits, name)
        return (best[1], best[0]) if best else None


def dedup_split(
    split_dir: Path,
    out_dir: Path,
    *,
    against: Sequence[Path] = (),
    distance: int = 6,
    workers: int | None = None,
) -> DedupReport:
    """Copy a split's shards without near duplicates, and without samples that show an evaluation picture.

    Of captioned pictures that are alike the first is kept; other tasks ask many questions about one picture, so that
    they are compared with the evaluation pictures alone. `against` names folders of image files or of shards.
    OUT/removed.jsonl lists what was removed and why. Raises UsageError when out_dir is not empty.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        raise UsageError(f"{out_dir}: not empty; choose another folder")
    report = DedupReport()
    evaluation, seen = HashIndex(distance), HashIndex(distance)
    for name, value in _evaluation_hashes(against, report):
        evaluation.add(value, name)
    paths = shard_paths(split_dir)
    removed: list[Removed] = []
    plan: list[tuple[Path, Path, frozenset[int]]] = []
    for path, rows in zip(paths, run_jobs(_hash_shard, paths, "hashes", workers=workers), strict=True):
        report.samples += len(rows)
        gone = dict(_gone(rows, evaluation, seen))
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


def _gone(rows: list[Row], evaluation: HashIndex, seen: HashIndex) -> Iterator[tuple[int, Removed]]:
    """(place in the shard, why) of the samples that are left out; the others' pictures are remembered."""
    for place, (sample_id, row, task, hashes) in enumerate(rows):
        known = [value for value in hashes if value is not None]
        if found := next(filter(None, map(evaluation.find, known)), None):
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


def _evaluation_hashes(against: Sequence[Path], report: DedupReport) -> Iterator[tuple[str, int]]:
    for folder in against:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder of evaluation pictures")
        found = 0
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
            for name, picture in _pictures(path):
                found += 1
                try:
                    value = picture_hash(images.load(picture))
                except ImageError as error:
                    report.unreadable_evaluation.append(f"{name}: {error}")
                    continue
                report.evaluation_pictures += 1
                if value is not None:
                    yield name, value
        if not found:
            raise UsageError(f"{folder}: no image files or shards here to compare with")


def _pictures(path: Path) -> Iterator[tuple[str, Path | bytes]]:
    if path.suffix.lower() in images.SUFFIXES:
        yield str(path), path
    elif path.suffix == ".parquet":
        for sample in read_shard(path):
            for picture in sample.images:
                yield f"{path}#{sample.id}", picture


def _parts(value: int) -> list[int]:
    """A hash's bands."""
    return [(value >> shift) & 0xFFFF for shift in range(0, 16 * BANDS, 16)]
