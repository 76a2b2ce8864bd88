"""What each step of cleaning costs a core: measured on pairs, or as it was measured for the package.

The measuring runs the tool itself, with a stopwatch at its steps.
"""

import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from qvl.data.damage import Damage
from qvl.data.pairs.clean import RuleCounts, UnitCleaner, UnitCounts, UnitJob
from qvl.data.pairs.clip import BATCH, compare, load_clip, prepare
from qvl.data.pairs.readers import RawPair, find_units
from qvl.data.pairs.rules import RULES, Rule
from qvl.data.pairs.sources import SourceSettings, bundled_sources, load_source
from qvl.data.sample import Sample, write_shard
from qvl.errors import DataError
from qvl.files import write_text

BEFORE_RULES = ("read", "check", "columns")  # of every pair
CLIP = ("clip_prepare", "clip_model")  # of the pairs that a CLIP model scores
AFTER_RULES = ("sample", "write")  # of the pairs that are kept
PAIRS = 4000  # that are measured, and
CLIP_PAIRS = 4 * BATCH  # with a CLIP model
Item = TypeVar("Item")


@dataclass(frozen=True)
class Rates:
    """CPU seconds of one core for a pair, by step, with pictures of this mean size.

    Steps: BEFORE_RULES, the rules by name, CLIP where a model was measured, AFTER_RULES.
    """

    measured_on: str
    picture_bytes: int
    seconds: dict[str, float]


def bundled_rates() -> Rates:
    """As `benchmarks/cleaning.py --write-rates` measured them."""
    return Rates(**json.loads(_bundled().read_text(encoding="utf-8")))


def write_bundled_rates(rates: Rates) -> None:
    """Put these in their place."""
    write_text(_bundled(), json.dumps(asdict(rates), indent=1) + "\n")


def _bundled() -> Path:
    return Path(str(resources.files("qvl.assets") / "cleaning_rates.json"))


def measure_rates(inputs: Sequence[Path], source: str | Path, clip_model: str | None = None) -> Rates:
    """Rates of this machine on the first PAIRS of these pairs, for every rule that there is.

    The source's settings say where the texts are; a pair without a CLIP score passes. CPU time, so that neighbours
    and disks do not count. DataError when no pair passes all rules: the last steps are unknown then.
    """
    settings = _with_every_rule(load_source(source))
    measured = _Measured(UnitCounts("", rules={rule.name: RuleCounts() for rule in settings.rules}))
    with tempfile.TemporaryDirectory() as folder:
        for unit in find_units(inputs):
            samples = _TimedCleaner(UnitJob(0, unit, settings, Path(folder)), measured).samples()
            if (first := next(samples, None)) is not None:
                with measured.step("write"):
                    write_shard(chain([first], samples), Path(folder) / "shard.parquet")
            if measured.counts.seen >= PAIRS:
                break
    counts = measured.counts
    if not counts.kept:
        raise DataError(
            f"{inputs[0]}: none of {counts.seen} pairs passes the rules; measure on pairs of the kind that you clean"
        )
    seen = {name: rule.seen for name, rule in counts.rules.items()}
    pairs = {**dict.fromkeys(BEFORE_RULES, counts.seen), **seen, **dict.fromkeys(AFTER_RULES, counts.kept)}
    if clip_model is not None:
        _measure_clip(clip_model, measured)
        pairs |= dict.fromkeys(CLIP, len(measured.rows))
    return Rates(
        f"{platform.machine()}, Python {platform.python_version()}, {counts.seen:,} pairs",
        round(measured.picture_bytes / counts.rules["special_tags"].seen),
        {step: float(f"{measured.seconds[step] / count:.3g}") for step, count in pairs.items()},
    )


def _with_every_rule(settings: SourceSettings) -> SourceSettings:
    """The settings, with each rule that they lack as another source has it."""
    rules: dict[str, Rule] = {rule.name: rule for name in bundled_sources() for rule in load_source(name).rules}
    rules |= {rule.name: rule for rule in settings.rules}
    return replace(settings, rules=tuple(rules[name] for name in RULES))


@dataclass
class _Measured:
    """The account of all units, and each step's seconds; a step inside another counts for itself alone."""

    counts: UnitCounts
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    picture_bytes: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)  # the first CLIP_PAIRS
    running: list[str] = field(default_factory=list)
    since: float = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._charge()
        self.running.append(name)
        try:
            yield
        finally:
            self._charge()
            self.running.pop()

    def each(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """The items; to come to the next one is the step."""
        while True:
            with self.step(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def _charge(self) -> None:
        now = time.process_time()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now


class _TimedCleaner(UnitCleaner):
    """The tool's own cleaner; all units share one account."""

    def __init__(self, job: UnitJob, measured: _Measured) -> None:
        super().__init__(job, None)
        self.measured, self.counts = measured, measured.counts

    def samples(self) -> Iterator[Sample]:
        yield from self.measured.each("columns", super().samples())

    def _sound_pairs(self) -> Iterator[dict[str, Any]]:
        pairs = self.measured.each("read", super()._sound_pairs())
        for row in islice(pairs, PAIRS - self.counts.seen):
            self.measured.picture_bytes += len(row["image"])
            if len(self.measured.rows) < CLIP_PAIRS:
                self.measured.rows.append(row)
            yield row

    def _row(self, pair: RawPair) -> dict[str, Any] | Damage:
        with self.measured.step("check"):
            row = super()._row(pair)
        if not isinstance(row, Damage) and row["clip_score"] is None:
            row["clip_score"] = 1.0
        return row

    def _apply(self, rule: Rule, batch: pa.Table, rows: list[dict[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
        with self.measured.step(rule.name):
            return super()._apply(rule, batch, rows)

    def _sample(self, row: dict[str, Any], text: str) -> Sample:
        with self.measured.step("sample"):
            return super()._sample(row, text)


def _measure_clip(name: str, measured: _Measured) -> None:
    model, processor = load_clip(name)
    batches = [measured.rows[start : start + BATCH] for start in range(0, len(measured.rows), BATCH)]
    encoded = [[row["image"] for row in rows] for rows in batches]
    texts = [[row["text"] for row in rows] for rows in batches]
    compare(model, prepare(processor, encoded[0], texts[0]))  # the first pass also sets things up
    for pictures, captions in zip(encoded, texts, strict=True):
        with measured.step("clip_prepare"):
            prepared = prepare(processor, pictures, captions)
        with measured.step("clip_model"):
            compare(model, prepared)
