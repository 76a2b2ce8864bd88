"""What of the benchmarks' data lies in the user's folder: found, wrong or missing, and which file to get."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl.errors import QvlError
from qvl.evaluate.benchmarks import Benchmark, Source
from qvl.evaluate.rows import missing_pictures
from qvl.evaluate.run import source_files

READY, INCOMPLETE, MISSING = "ready", "incomplete", "missing"


@dataclass(frozen=True)
class Found:
    """state: READY, INCOMPLETE (some of it is there) or MISSING; what to get, or what is wrong."""

    name: str
    state: str
    questions: int
    notes: tuple[str, ...]


def check(benchmarks: Sequence[Benchmark], data: Path) -> list[Found]:
    """Every benchmark's data, without asking anything."""
    return [_check_one(benchmark, data) for benchmark in benchmarks]


def _check_one(benchmark: Benchmark, data: Path) -> Found:
    state, questions, notes = _check_source(benchmark.source, data)
    if benchmark.exemplars is not None and state == READY:
        few_shot, _, missing = _check_source(benchmark.exemplars, data)
        if few_shot != READY:
            notes += tuple(f"few-shot alone: {note}" for note in missing)
    return Found(benchmark.name, state, questions, notes)


def _check_source(source: Source, data: Path) -> tuple[str, int, tuple[str, ...]]:
    files = source_files(source, data)
    if missing := [path for path in files if not path.exists()]:
        state = MISSING if len(missing) == len(files) else INCOMPLETE
        return state, 0, tuple(f"get {path} from {source.origin}" for path in missing)
    try:
        rows = source.read(files, data / source.images)
    except QvlError as error:
        return INCOMPLETE, 0, (str(error),)
    if not rows:
        return INCOMPLETE, 0, (f"{files[0]} holds no question of it",)
    if gone := missing_pictures(rows):
        note = f"{len(gone):,} pictures are not in {data / source.images}, such as {gone[0][1].name}"
        return INCOMPLETE, len(rows), (note,)
    return READY, len(rows), ()


def check_lines(found: Sequence[Found]) -> list[str]:
    """For the terminal."""
    lines = []
    for one in found:
        count = f"{one.questions:>9,} questions" if one.questions else " " * 19
        lines.append(f"{one.name:22} {one.state:10} {count}".rstrip())
        lines += [f"    {note}" for note in one.notes]
    ready = sum(one.state == READY for one in found)
    lines.append(f"{ready} of {len(found)} benchmarks are ready")
    return lines
