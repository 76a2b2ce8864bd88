"""Annotated data sets -> shards of samples, with the count of everything that was left out and why."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from qvl import images
from qvl.data.damage import Damage
from qvl.data.held_out import NEAR_EVALUATION, HeldOut, read_held_out
from qvl.data.language import language_of
from qvl.data.likeness import DISTANCE
from qvl.data.raw import encodable, printable
from qvl.data.sample import Sample, Turn, replacing_split, write_split
from qvl.data.sources import dialogues, grounding, vqa
from qvl.data.sources.common import CLIPPED, NOT_UTF8, Annotation, Exchange, Frame, Statistics, read_picture
from qvl.errors import DataError, ImageError, UsageError
from qvl.files import write_text
from qvl.text.markup import Image, Ref, Text, plain_text

REPORT_NAME = "convert.json"
LEFT_OUT_NAME = "left_out.jsonl"
OTHER_SPLITS_NAME = "other_splits.txt"  # pictures of rows that are not for training; --against reads it
EXCHANGES = 8
SINGLE = frozenset({"caption", "grounded_caption"})  # one answer says all there is to say about a picture
Item = Annotation | Sample | Statistics | Damage
Reader = Callable[[Sequence[Path], Path], Iterator[Item]]


@dataclass(frozen=True)
class Dataset:
    """A data set's reader, and the files that it wants in order."""

    read: Reader
    files: tuple[str, ...]

    def check(self, files: Sequence[Path]) -> None:
        """UsageError when files are missing or too many; a last name that ends in "..." stands for one or more."""
        more = self.files[-1].endswith("...")
        if len(files) < len(self.files) or (len(files) > len(self.files) and not more):
            raise UsageError(f"{len(files)} files given; it wants {', '.join(self.files)}")


DATASETS: dict[str, Dataset] = {
    "ai2d": Dataset(vqa.read_ai2d, ("questions folder", "ai2d_test_ids.csv")),
    "chartqa": Dataset(vqa.read_chartqa, ("train_human.json, train_augmented.json...",)),
    "docvqa": Dataset(vqa.read_docvqa, ("train_v1.0.json",)),
    "dvqa": Dataset(vqa.read_dvqa, ("train_qa.json",)),
    "gqa": Dataset(vqa.read_gqa, ("train_balanced_questions.json",)),
    "grit": Dataset(grounding.read_grit, ("tars of img2dataset...",)),
    "llava": Dataset(dialogues.read_llava, ("llava.json",)),
    "messages": Dataset(dialogues.read_messages, ("messages.json or .jsonl...",)),
    "ocrvqa": Dataset(vqa.read_ocrvqa, ("dataset.json",)),
    "okvqa": Dataset(vqa.read_vqa, ("OpenEnded questions.json", "annotations.json")),
    "qwen": Dataset(dialogues.read_qwen, ("conversations.json",)),
    "refcoco": Dataset(grounding.read_refcoco, ("refs(unc).p", "instances.json")),
    "text": Dataset(dialogues.read_text, (".txt or .jsonl...",)),
    "textvqa": Dataset(vqa.read_textvqa, ("TextVQA_0.5.1_train.json",)),
    "vg": Dataset(grounding.read_visual_genome, ("region_descriptions.json",)),
    "vgqa": Dataset(vqa.read_vgqa, ("question_answers.json",)),
    "vqav2": Dataset(vqa.read_vqa, ("questions.json", "annotations.json")),
}


@dataclass
class ConvertReport:
    """What became of a data set's rows. Rows are questions, phrases or dialogues."""

    dataset: str
    rows_used: int = 0
    samples: int = 0
    shards: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    statistics: Counter[str] = field(default_factory=Counter)
    held_out: HeldOut = field(default_factory=HeldOut)

    def summary(self) -> str:
        """For the terminal: one line per fact."""
        tasks = ", ".join(f"{task} {count:,}" for task, count in self.tasks.most_common())
        lines = [f"{self.dataset}: {self.rows_used:,} rows in {self.samples:,} samples, {self.shards} shards ({tasks})"]
        lines += [f"  {name}: {count:,}" for name, count in sorted(self.statistics.items())]
        lines += [f"  left out, {kind}: {count:,}" for kind, count in self.left_out.most_common()]
        if set(self.tasks) != {"text"}:
            lines += self.held_out.summary_lines()
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """For convert.json."""
        return {**vars(self), "held_out": self.held_out.pictures}


def convert(
    dataset: str,
    files: Sequence[Path],
    out_dir: Path,
    *,
    images_dir: Path = Path(),
    exchanges: int = EXCHANGES,
    against: Sequence[Path] = (),
    distance: int = DISTANCE,
    overwrite: bool = False,
) -> ConvertReport:
    """Read a data set's own files and write shards, convert.json, left_out.jsonl and other_splits.txt to out_dir.

    exchanges: how many questions about one picture share a sample; 1 gives the paper's form, more store and encode
    the picture once for all of them. against: evaluation pictures, as `read_held_out` reads them; what shows one of
    them, up to `distance` bits of its hash, is left out. Raises UsageError for an unknown data set or files that
    don't fit, DataError for files not of its form.
    """
    if dataset not in DATASETS:
        raise UsageError(f"data set {dataset!r}: known are {', '.join(DATASETS)}")
    if exchanges < 1:
        raise UsageError(f"exchanges {exchanges}: at least 1")
    DATASETS[dataset].check(files)
    report = ConvertReport(dataset, held_out=read_held_out(against, distance))
    left_out: list[Damage] = []
    with replacing_split(out_dir, overwrite) as folder:
        sound = _sound(_read(dataset, files, images_dir), report, left_out)
        samples = _samples(sound, dataset, exchanges, report, left_out)
        report.shards = write_split(_counted(samples, report), folder, dataset)
        for damage in left_out:
            report.left_out[damage.kind] += max(damage.rows, 1)
        if not report.samples and (overwrite or not left_out):  # shards are never replaced by nothing
            why = ", ".join(f"{kind}: {count:,}" for kind, count in report.left_out.most_common(3)) or "no rows in them"
            raise DataError(f"{', '.join(map(str, files))}: no sample of {dataset} comes out of this ({why})")
        lines = "".join(json.dumps(asdict(damage), ensure_ascii=False) + "\n" for damage in left_out)
        write_text(folder / LEFT_OUT_NAME, lines)
        pictures = dict.fromkeys(damage.picture for damage in left_out if damage.picture)
        write_text(folder / OTHER_SPLITS_NAME, "".join(f"{picture}\n" for picture in pictures))
        write_text(folder / REPORT_NAME, json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n")
    return report


def _read(dataset: str, files: Sequence[Path], images_dir: Path) -> Iterator[Item]:
    try:
        yield from DATASETS[dataset].read(files, images_dir)
    except (AttributeError, KeyError, TypeError) as error:  # a list where an object should be, deep inside
        raise DataError(f"{', '.join(map(str, files))}: not of the form of {dataset} ({error!r})") from error


def _sound(items: Iterable[Item], report: ConvertReport, left_out: list[Damage]) -> Iterator[Annotation | Sample]:
    """What is for training: no Damage, no dialogue that shows an evaluation picture (annotations show it later)."""
    for item in items:
        match item:
            case Damage():
                left_out.append(item)
            case Statistics():
                report.statistics.update(item.counts)
            case Sample() if like := next(filter(None, map(report.held_out.find, item.images)), None):
                left_out.append(_near_evaluation(item.provenance["row"], like))
            case _:
                yield item


def _near_evaluation(key: str, like: tuple[str, int]) -> Damage:
    name, bits = like
    return Damage(NEAR_EVALUATION, key, f"{name}, {bits} bits differ")


def _counted(samples: Iterator[Sample], report: ConvertReport) -> Iterator[Sample]:
    for sample in samples:
        report.samples += 1
        report.tasks[sample.task] += 1
        yield sample


def _samples(
    items: Iterator[Annotation | Sample], dataset: str, exchanges: int, report: ConvertReport, left_out: list[Damage]
) -> Iterator[Sample]:
    """Annotations of one picture and task that follow each other become samples; dialogues are samples already."""
    known: _Picture | None = None  # the last picture: its questions follow each other
    for (_, task), group in groupby(items, key=_group_key):
        rows = list(group)
        if isinstance(rows[0], Sample):
            report.rows_used += len(rows)
            yield from (row for row in rows if isinstance(row, Sample))
            continue
        annotations = [row for row in rows if isinstance(row, Annotation)]
        source = annotations[0].image
        if known is None or (known.source is not source and known.source != source):
            try:
                known = _read_image(source, report.held_out)
            except ImageError as error:
                left_out += [Damage(error.kind, a.key, str(error)) for a in annotations]
                known = None
                continue
        if known.like:
            left_out += [_near_evaluation(a.key, known.like) for a in annotations]
            continue
        frame = Frame(*known.size)
        made = list(_exchanges(annotations, frame, left_out))
        report.statistics.update({CLIPPED: frame.clipped} if frame.clipped else {})
        report.rows_used += len(made)
        step = 1 if task in SINGLE else exchanges
        for start in range(0, len(made), step):
            yield _sample(dataset, task, known.encoded, made[start : start + step])


def _group_key(item: Annotation | Sample) -> tuple[object, str]:
    return (item.id, "") if isinstance(item, Sample) else (item.image, item.task)


@dataclass(frozen=True)
class _Picture:
    """An encoded picture as found, its (width, height) in pixels, and the evaluation picture that it is like."""

    source: Path | bytes
    encoded: bytes
    size: tuple[int, int]
    like: tuple[str, int] | None


def _read_image(source: Path | bytes, held_out: HeldOut) -> _Picture:
    encoded = source if isinstance(source, bytes) else read_picture(source)
    return _Picture(source, encoded, images.probe(encoded), held_out.find(encoded))


def _exchanges(annotations: list[Annotation], frame: Frame, left_out: list[Damage]) -> Iterator[tuple[str, Exchange]]:
    for annotation in annotations:
        try:
            prefix, answer = annotation.exchange(frame)
        except DataError as error:
            left_out.append(Damage(str(error), annotation.key))
            continue
        if all(encodable(segment.text) for segment in prefix + answer if isinstance(segment, Text | Ref)):
            yield printable(annotation.key), (prefix, answer)
        else:
            left_out.append(Damage(NOT_UTF8, annotation.key))


def _sample(dataset: str, task: str, encoded: bytes, made: list[tuple[str, Exchange]]) -> Sample:
    turns: list[Turn] = []
    for number, (_, (prefix, answer)) in enumerate(made):
        asked = prefix if number == 0 else tuple(s for s in prefix if not isinstance(s, Image))  # shown once
        turns += [Turn("user", asked), Turn("assistant", answer)]
    keys = [key for key, _ in made]
    provenance = {
        "source": dataset,
        "row": keys[0],
        "rows": keys,
        "settings": f"{len(made)} exchanges",
        "image_sha256": hashlib.sha256(encoded).hexdigest(),
    }
    return Sample(
        f"{dataset}/{task}/{keys[0]}",
        task,
        language_of("".join(plain_text(t.content) for t in turns)),
        (encoded,),
        tuple(turns),
        provenance,
    )
