"""One unit of raw pairs -> a shard of caption samples, what was dropped and why, and the counts.

A unit's outputs depend on the unit and the settings alone, and its counts are written last: so any number of
workers gives the same files, and a run that was killed goes on with the units that have no counts yet.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, compress, islice
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
from qvl.data.raw import encodable, printable
from qvl.data.sample import Sample, Turn, write_shard
from qvl.errors import ImageError, UsageError
from qvl.files import replacing, write_text
from qvl.pages import jpeg_base64
from qvl.text.markup import Text
from qvl.text.prompts import caption_prefix

BATCH = 256  # pairs that the rules see at once
EXAMPLES = 2  # of each rule and unit, for the page
THUMBNAIL = 112  # pixels
COUNTS = "counts"  # the folder whose files say which units are done
REJECTED, QUARANTINE = "rejected", "quarantine"
FLOAT32_MAX = 3e38
SHARDS = f"*-{'[0-9]' * 6}.parquet"
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
        return self.out_dir / REJECTED / f"{self.stem}.parquet"

    @property
    def quarantine_path(self) -> Path:
        return self.out_dir / QUARANTINE / f"{self.stem}.jsonl"


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
        worker = UnitCleaner(job, rejected)
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


class UnitCleaner:
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
            batch = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
            for rule in self.job.settings.rules:
                batch, rows = self._apply(rule, batch, rows)
            for row, text in zip(rows, batch["text"].to_pylist(), strict=True):
                self.counts.kept += 1
                yield self._sample(row, text)

    def _sound_pairs(self) -> Iterator[dict[str, Any]]:
        """Pairs with what rules and samples need of them; what is damaged is counted on the way."""
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
        if score is not None and not _is_number(score):
            return Damage("CLIP score is not a number", pair.key, repr(score)[:80])
        try:
            image = pair.image if isinstance(pair.image, bytes) else pair.image.read_bytes()
            if not image:
                return Damage("empty image", pair.key)
            width, height = images.probe(image)
        except ImageError as error:
            return Damage(error.kind, pair.key, str(error))
        except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
            return Damage("missing image", pair.key, str(error))
        url = _first(pair.fields, ("url", "URL"))
        return {
            "key": pair.key,
            "text": text,
            "image": image,
            "width": width,
            "height": height,
            "clip_score": score,
            "url": printable(url) if isinstance(url, str) else None,
            "scores": {},  # by rule
        }

    def _apply(self, rule: Rule, batch: pa.Table, rows: list[dict[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
        """The batch after one rule, and its pairs as they were found."""
        counts = self.counts.rules[rule.name]
        counts.seen += len(rows)
        if not rows:
            return batch, rows
        if not isinstance(rule, DropRule):
            cleaned = rule.clean(batch["text"])
            changed = pc.fill_null(pc.not_equal(cleaned, batch["text"]), False)
            counts.changed += pc.sum(changed).as_py()
            self._keep_changed(counts, rows, batch["text"], cleaned, changed)
            return batch.set_column(batch.schema.get_field_index("text"), "text", cleaned), rows
        if isinstance(rule, ClipScore) and self.job.clip_model:
            batch = _with_scores(batch, rows, self.job.clip_model)
        measured = rule.measure(batch)
        if measured.null_count:
            raise UsageError(
                f"{self.job.unit.label}: {measured.null_count} pairs have no {rule.name}; name its column in the "
                f"source's settings, give --clip-model, or take the rule [rules.{rule.name}] out"
            )
        drops = rule.drops(measured)
        for row, value in zip(rows, measured.to_pylist(), strict=True):
            row["scores"][rule.name] = round(value, 4)
        dropped = drops.to_pylist()
        counts.dropped += sum(dropped)
        self._reject(
            rule.name, counts, list(compress(rows, dropped)), batch["text"].filter(drops), measured.filter(drops)
        )
        return batch.filter(pc.invert(drops)), [row for row, drop in zip(rows, dropped, strict=True) if not drop]

    def _reject(
        self,
        name: str,
        counts: RuleCounts,
        rows: list[dict[str, Any]],
        texts: pa.ChunkedArray,
        measured: pa.ChunkedArray,
    ) -> None:
        rejected = [
            {"row": self._where(row), "rule": name, "measure": value, "text": text, "image": row["image"]}
            for row, value, text in zip(rows, measured.to_pylist(), texts.to_pylist(), strict=True)
        ]
        if self.rejected is not None and rejected:
            self.rejected.write_table(pa.Table.from_pylist(rejected, schema=REJECTED_SCHEMA))
        for pair in rejected[: EXAMPLES - len(counts.examples)]:
            picture = _thumbnail(pair["image"])
            example = {
                "row": pair["row"],
                "text": pair["text"],
                "measure": round(pair["measure"], 4),
                "picture": picture,
            }
            counts.examples.append(example)

    def _keep_changed(
        self,
        counts: RuleCounts,
        rows: list[dict[str, Any]],
        texts: pa.ChunkedArray,
        cleaned: pa.ChunkedArray,
        changed: pa.ChunkedArray,
    ) -> None:
        for i in pc.indices_nonzero(changed)[: EXAMPLES - len(counts.examples)].to_pylist():
            counts.examples.append({"row": self._where(rows[i]), "text": texts[i].as_py(), "after": cleaned[i].as_py()})

    def _where(self, row: dict[str, Any]) -> str:
        """The pair's file and key, as provenance has it."""
        return f"{self.job.unit.name}#{row['key']}"

    def _sample(self, row: dict[str, Any], text: str) -> Sample:
        """The pair with the text that the rules left."""
        settings = self.job.settings
        where = self._where(row)
        language = language_of(text) if settings.language == "auto" else settings.language
        provenance = {
            "source": settings.name,
            "row": where,
            "settings": settings.version,
            "image_sha256": hashlib.sha256(row["image"]).hexdigest(),
            "scores": row["scores"],
        }
        if row["url"]:
            provenance["url"] = row["url"]
        if row["text"] != text:
            provenance["text_found"] = row["text"]
        turns = (Turn("user", caption_prefix(language)), Turn("assistant", (Text(text),)))
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
    if not encodable(text):
        return Damage("caption is not UTF-8", pair.key, "an unpaired surrogate")
    return text


def _is_number(value: Any) -> bool:
    """Finite, and within float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < FLOAT32_MAX


def _with_scores(batch: pa.Table, rows: list[dict[str, Any]], clip_model: str) -> pa.Table:
    """The batch with the CLIP scores that it lacks."""
    missing = pc.is_null(batch["clip_score"])
    encoded = [row["image"] for row in compress(rows, missing.to_pylist())]
    if not encoded:
        return batch
    scores = clip_scores(clip_model, encoded, batch["text"].filter(missing).to_pylist())
    filled = pc.replace_with_mask(
        batch["clip_score"].combine_chunks(), missing.combine_chunks(), pa.array(scores, pa.float32())
    )
    return batch.set_column(batch.schema.get_field_index("clip_score"), "clip_score", filled)


def _thumbnail(encoded: bytes) -> str:
    picture = images.load(encoded)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return jpeg_base64(picture, quality=80)
