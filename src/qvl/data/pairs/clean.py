"""One unit of raw pairs -> a shard of caption samples, what was dropped and why, and the counts.

A unit's outputs depend on the unit and the settings alone, and its counts are written last: so any number of
workers gives the same files, and a run that was killed goes on with the units that have no counts yet.
"""

import base64
import hashlib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qvl import images
from qvl.data.damage import Damage
from qvl.data.language import language_of
from qvl.data.pairs.clip import clip_scores
from qvl.data.pairs.readers import read_unit
from qvl.data.pairs.rules import PAIR_SCHEMA, ClipScore, DropRule, Rule
from qvl.data.pairs.sources import SourceSettings
from qvl.data.pairs.unit import RawPair, Unit
from qvl.data.sample import Sample, Turn, write_shard
from qvl.errors import ImageError, UsageError
from qvl.files import replacing, write_text
from qvl.text.markup import Text
from qvl.text.prompts import caption_prefix

BATCH = 256  # pairs that the rules see at once
EXAMPLES = 2  # of each rule and unit, for the page
THUMBNAIL = 112  # pixels
COUNTS = "counts"  # the folder whose files say which units are done
REJECTED_SCHEMA = pa.schema(
    [
        ("row", pa.string()),
        ("rule", pa.string()),
        ("measure", pa.float64()),
        ("text", pa.string()),
        ("image", pa.binary()),
    ]
)


@dataclass(frozen=True)
class UnitJob:
    """What one worker is told: plain data, so that it can travel to another process or machine."""

    index: int
    unit: Unit
    settings: SourceSettings
    out_dir: Path
    image_root: Path | None = None
    keep_rejected: bool = False
    clip_model: str | None = None

    @property
    def stem(self) -> str:
        """Of the unit's output files."""
        return f"{self.settings.name}-{self.index:06d}"

    @property
    def shard_path(self) -> Path:
        return self.out_dir / f"{self.stem}.parquet"

    @property
    def counts_path(self) -> Path:
        return self.out_dir / COUNTS / f"{self.stem}.json"

    @property
    def rejected_path(self) -> Path:
        return self.out_dir / "rejected" / f"{self.stem}.parquet"

    @property
    def quarantine_path(self) -> Path:
        return self.out_dir / "quarantine" / f"{self.stem}.jsonl"


@dataclass
class RuleCounts:
    """What one rule saw and did."""

    seen: int = 0
    dropped: int = 0
    changed: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class UnitCounts:
    """The account of a unit: seen == kept + dropped by the rules + damaged pairs."""

    unit: str
    seen: int = 0
    kept: int = 0
    damaged_pairs: int = 0
    damages: Counter[str] = field(default_factory=Counter)  # by kind; of pairs and of whole files
    rules: dict[str, RuleCounts] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "UnitCounts":
        rules = {name: RuleCounts(**counts) for name, counts in values["rules"].items()}
        return cls(**{**values, "damages": Counter(values["damages"]), "rules": rules})


def clean_unit(job: UnitJob) -> int:
    """Do the job; its index. Writes the shard, what was rejected and quarantined, and at last the counts."""
    with ExitStack() as stack:
        rejected = stack.enter_context(_rejected_writer(job.rejected_path)) if job.keep_rejected else None
        worker = _UnitCleaner(job, rejected)
        samples = worker.samples()
        if (first := next(samples, None)) is not None:
            write_shard(chain([first], samples), job.shard_path)
    worker.write_account()
    return job.index


@contextmanager
def _rejected_writer(path: Path) -> Iterator[pq.ParquetWriter]:
    """Rows go to the disk as they come: their pictures are most of a unit."""
    with replacing(path) as temporary, pq.ParquetWriter(temporary, REJECTED_SCHEMA) as writer:
        yield writer


class _UnitCleaner:
    """The state of one unit's cleaning."""

    def __init__(self, job: UnitJob, rejected: pq.ParquetWriter | None) -> None:
        self.job, self.rejected = job, rejected
        self.counts = UnitCounts(job.unit.label, rules={rule.name: RuleCounts() for rule in job.settings.rules})
        self.damages: list[Damage] = []
        self.keys: set[str] = set()

    def samples(self) -> Iterator[Sample]:
        """What passes every rule, batch by batch."""
        pairs = self._sound_pairs()
        while rows := list(islice(pairs, BATCH)):
            batch, scores = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), [dict[str, float]() for _ in rows]
            texts = batch["text"].to_pylist()
            for rule in self.job.settings.rules:
                batch, scores, texts = self._apply(rule, batch, scores, texts)
            for row, score, text in zip(batch.to_pylist(), scores, texts, strict=True):
                self.counts.kept += 1
                yield self._sample(row, score, text)

    def _sound_pairs(self) -> Iterator[dict[str, Any]]:
        """Rows of PAIR_SCHEMA; what is damaged is counted on the way."""
        for item in read_unit(self.job.unit, self.job.image_root):
            row = item if isinstance(item, Damage) else self._row(item)
            if isinstance(row, Damage):
                self.damages.append(row)
                self.counts.damages[row.kind] += 1
                self.counts.damaged_pairs += row.rows
                self.counts.seen += row.rows
            else:
                self.counts.seen += 1
                yield row

    def _row(self, pair: RawPair) -> dict[str, Any] | Damage:
        if pair.key in self.keys:
            return Damage("repeated key", pair.key)
        self.keys.add(pair.key)
        text = _text(pair, self.job.settings.columns["text"])
        if isinstance(text, Damage):
            return text
        score = _first(pair.fields, self.job.settings.columns["clip_score"])
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            return Damage("CLIP score is not a number", pair.key, repr(score)[:80])
        try:
            image = pair.image if isinstance(pair.image, bytes) else pair.image.read_bytes()
            if not image:
                return Damage("empty image", pair.key)
            width, height = images.probe(image)
        except ImageError as error:
            return Damage(error.kind, pair.key, str(error))
        except OSError as error:
            return Damage("missing image", pair.key, str(error))
        url = _first(pair.fields, ("url", "URL"))
        return {
            "key": pair.key,
            "text": text,
            "image": image,
            "width": width,
            "height": height,
            "clip_score": score,
            "url": url if isinstance(url, str) else None,
        }

    def _apply(
        self, rule: Rule, batch: pa.Table, scores: list[dict[str, float]], texts: list[str]
    ) -> tuple[pa.Table, list[dict[str, float]], list[str]]:
        """The batch after one rule, with the scores of its pairs and their texts as they were found."""
        counts = self.counts.rules[rule.name]
        counts.seen += batch.num_rows
        if not batch.num_rows:
            return batch, scores, texts
        if not isinstance(rule, DropRule):
            cleaned = rule.clean(batch["text"])
            changed = pc.fill_null(pc.not_equal(cleaned, batch["text"]), False)
            counts.changed += pc.sum(changed).as_py()
            self._keep_changed(counts, batch, cleaned, changed.to_pylist())
            return batch.set_column(batch.schema.get_field_index("text"), "text", cleaned), scores, texts
        if isinstance(rule, ClipScore) and self.job.clip_model:
            batch = _with_scores(batch, self.job.clip_model)
        measured = rule.measure(batch)
        if measured.null_count:
            raise UsageError(
                f"{self.job.unit.label}: {measured.null_count} pairs have no {rule.name}; name its column in the "
                f"source's settings, give --clip-model, or take the rule [rules.{rule.name}] out"
            )
        values, drops = measured.to_pylist(), rule.drops(measured)
        for score, value in zip(scores, values, strict=True):
            score[rule.name] = round(value, 4)
        dropped = drops.to_pylist()
        counts.dropped += sum(dropped)
        self._reject(rule.name, counts, batch.filter(drops), [v for v, d in zip(values, dropped, strict=True) if d])
        kept = [i for i, d in enumerate(dropped) if not d]
        return (
            batch.take(kept) if len(kept) < len(dropped) else batch,
            [scores[i] for i in kept],
            [texts[i] for i in kept],
        )

    def _reject(self, name: str, counts: RuleCounts, dropped: pa.Table, values: list[float]) -> None:
        if self.rejected is not None and dropped.num_rows:
            rows = [
                {"row": self._where(row), "rule": name, "measure": value, "text": row["text"], "image": row["image"]}
                for row, value in zip(dropped.to_pylist(), values, strict=True)
            ]
            self.rejected.write_table(pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA))
        missing = EXAMPLES - len(counts.examples)
        for row, value in zip(dropped.slice(0, missing).to_pylist(), values, strict=False):
            picture = _thumbnail(row["image"])
            example = {"row": self._where(row), "text": row["text"], "measure": round(value, 4), "picture": picture}
            counts.examples.append(example)

    def _keep_changed(self, counts: RuleCounts, batch: pa.Table, cleaned: pa.ChunkedArray, changed: list[bool]) -> None:
        for i in (i for i, different in enumerate(changed) if different):
            if len(counts.examples) >= EXAMPLES:
                return
            row = batch.slice(i, 1).to_pylist()[0]
            counts.examples.append({"row": self._where(row), "text": row["text"], "after": cleaned[i].as_py()})

    def _where(self, row: dict[str, Any]) -> str:
        """The pair's file and key, as provenance has it."""
        return f"{self.job.unit.name}#{row['key']}"

    def _sample(self, row: dict[str, Any], scores: dict[str, float], found_text: str) -> Sample:
        settings = self.job.settings
        where = self._where(row)
        language = language_of(row["text"]) if settings.language == "auto" else settings.language
        provenance = {
            "source": settings.name,
            "row": where,
            "settings": settings.version,
            "image_sha256": hashlib.sha256(row["image"]).hexdigest(),
            "scores": scores,
        }
        if row["url"]:
            provenance["url"] = row["url"]
        if row["text"] != found_text:
            provenance["text_found"] = found_text
        turns = (Turn("user", caption_prefix(language)), Turn("assistant", (Text(row["text"]),)))
        identity = hashlib.sha256(where.encode()).hexdigest()[:20]
        return Sample(f"{settings.name}/{identity}", "caption", language, (row["image"],), turns, provenance)

    def write_account(self) -> None:
        """What was quarantined, and the counts, which say that the unit is done."""
        job = self.job
        if self.damages:
            lines = [
                json.dumps({"file": job.unit.name, **asdict(damage)}, ensure_ascii=False) for damage in self.damages
            ]
            write_text(job.quarantine_path, "\n".join(lines) + "\n")
        write_text(job.counts_path, json.dumps(self.counts, default=vars, ensure_ascii=False, indent=1) + "\n")


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of these columns that is there."""
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _text(pair: RawPair, names: tuple[str, ...]) -> str | Damage:
    """The pair's text, composed (NFC) as the tokenizer wants it; of several captions the longest (appendix A.1)."""
    value = _first(pair.fields, names)
    if value is None or value == []:
        return Damage("no caption", pair.key, f"looked for {', '.join(names)}")
    captions = value if isinstance(value, list) else [value]
    if not all(isinstance(caption, str) for caption in captions):
        return Damage("caption is not text", pair.key, repr(value)[:80])
    text = unicodedata.normalize("NFC", max(captions, key=len))
    try:
        text.encode()
    except UnicodeEncodeError:
        return Damage("caption is not UTF-8", pair.key, "an unpaired surrogate")
    return text


def _with_scores(batch: pa.Table, clip_model: str) -> pa.Table:
    """The batch with the CLIP scores that it lacks."""
    missing = pc.is_null(batch["clip_score"])
    unscored = batch.filter(missing)
    if not unscored.num_rows:
        return batch
    scores = clip_scores(clip_model, unscored["image"].to_pylist(), unscored["text"].to_pylist())
    filled = pc.replace_with_mask(
        batch["clip_score"].combine_chunks(), missing.combine_chunks(), pa.array(scores, pa.float32())
    )
    return batch.set_column(batch.schema.get_field_index("clip_score"), "clip_score", filled)


def _thumbnail(encoded: bytes) -> str:
    """A small JPEG, base64."""
    picture = images.load(encoded)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
