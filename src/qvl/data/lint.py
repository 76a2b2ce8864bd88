"""The rules that every sample must obey, whatever made it.

Source: paper appendix B (formats per task) and what users of the published model got wrong most: boxes in
the wrong range or order, boxes without their phrase, images without their place in the text. Each problem is
a line "kind: detail". Ranges of coordinates and inverted boxes are refused earlier, by text/markup.py.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qvl import images
from qvl.data.raw import encodable
from qvl.data.sample import LANGUAGES, ROLES, SCHEMA, TASKS, Sample, Turn, from_row, shard_paths
from qvl.errors import DataError, ImageError
from qvl.text.markup import Box, Content, Image, Quad, Ref, Text, stray_tag
from qvl.text.render import render
from qvl.text.tokenizer import Tokenizer

PROVENANCE_KEYS = ("source", "row", "settings")
ANSWER_HOLDS = {"referring": Box, "grounding": Box, "grounded_caption": Box, "ocr": Quad}
EXAMPLES = 20  # problems that a report spells out
SMALL = 900  # pixels: on a picture of no longer side, boxes in [0, 1000) reach beyond its size sooner or later
IN_PIXELS = "boxes in pixels"  # a problem of a whole split
ENOUGH = 20  # boxes on such pictures, to say that they never do


@dataclass
class LintReport:
    """Counts by kind over a split, the first problems in full, and what is wrong with each sample."""

    samples: int = 0
    faulty: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)  # sample id -> its first problem

    @property
    def ok(self) -> bool:
        """No problem at all."""
        return not self.kinds

    def summary(self) -> str:
        """For the terminal."""
        rows = [f"{self.samples} samples, {self.faulty} with problems"]
        rows += [f"  {count}: {kind}" for kind, count in self.kinds.most_common()]
        rows += [f"    {example}" for example in self.examples]
        return "\n".join(rows)

    def add(self, where: str, problems: list[str]) -> None:
        """Count the problems of one sample or shard."""
        self.faulty += bool(problems)
        for problem in problems:
            self.kinds[problem.split(":", 1)[0]] += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(f"{where}: {problem}")


def lint(sample: Sample) -> list[str]:
    """All problems of one sample; empty when it is sound."""
    problems = list(_labels(sample))
    problems += _origin(sample)
    problems += _roles(sample.task, sample.turns)
    problems += _image_places(sample)
    for index, image in enumerate(sample.images):
        problems += _image(index, image)
    asked = False
    for turn in sample.turns:
        problems += _segments(turn.content)
        if turn.role == "assistant":
            problems += _answer(sample.task, turn.content)
        if any(_orphans(turn.content, asked)):
            problems.append(f"box without phrase: none stands before it in the {turn.role} turn")
        asked = turn.role == "user" and _open_phrase(turn.content)
    return problems


def lint_split(directory: Path, tokenizer: Tokenizer, num_image_tokens: int, max_length: int) -> LintReport:
    """Every sample of a folder of shards. A shard or row that can't be read is a problem, not an end.

    A sample of which not even the first exchange fits max_length tokens would never be trained on: also a problem.
    """
    report = LintReport()
    known: set[str] = set()
    boxes, in_pixels = 0, True  # on small pictures; whether all so far end within their picture's pixels
    for path in shard_paths(directory):
        for row, item in enumerate(_rows(path)):
            where = f"{path.name} row {row}"
            if isinstance(item, DataError):
                report.add(where, [f"unreadable: {item}"])
                continue
            report.samples += 1
            problems = lint(item)
            turns = [(turn.role, turn.content) for turn in item.turns]
            if not problems and render(turns, item.task, tokenizer, num_image_tokens, max_length) is None:
                problems.append(f"length: longer than a sequence of {max_length} tokens")
            if item.id in known:
                problems.append(f"duplicate id: {item.id!r} occurs before")
            known.add(item.id)
            report.add(f"{where} ({item.id})", problems)
            if problems:
                report.bad[item.id] = problems[0]
            if in_pixels and not problems:
                fits = list(_ends_within(item))
                in_pixels, boxes = all(fits), boxes + len(fits)
    if in_pixels and boxes >= ENOUGH:
        report.add(str(directory), [f"{IN_PIXELS}: all {boxes} on small pictures end within the picture's pixels"])
    return report


def _ends_within(sample: Sample) -> Iterator[bool]:
    """For each box of a sample of one small picture, whether it could be in pixels."""
    if len(sample.images) != 1 or not any(isinstance(s, Box) for turn in sample.turns for s in turn.content):
        return
    width, height = images.probe(sample.images[0])
    if max(width, height) <= SMALL:
        for box in (s for turn in sample.turns for s in turn.content if isinstance(s, Box)):
            yield box.x2 <= width and box.y2 <= height


def _rows(path: Path) -> Iterator[Sample | DataError]:
    try:
        with pq.ParquetFile(path) as shard:
            if not shard.schema_arrow.equals(SCHEMA):
                yield DataError("the shard's columns are not those of a sample")
                return
            for batch in shard.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield _sample(row)
    except (pa.ArrowInvalid, OSError) as error:
        yield DataError(f"not a readable shard ({error})")


def _sample(row: dict[str, Any]) -> Sample | DataError:
    if empty := [name for name, value in row.items() if value is None]:
        return DataError(f"sample {row['id']!r}: nothing in {', '.join(empty)}")
    try:
        return from_row(row)
    except DataError as error:
        return error


def _labels(sample: Sample) -> Iterator[str]:
    if not sample.id:
        yield "id: empty"
    if sample.task not in TASKS:
        yield f"task: {sample.task!r} is not one of {', '.join(TASKS)}"
    if sample.language not in LANGUAGES:
        yield f"language: {sample.language!r} is not one of {', '.join(LANGUAGES)}"


def _origin(sample: Sample) -> Iterator[str]:
    if missing := [key for key in PROVENANCE_KEYS if key not in sample.provenance]:
        yield f"provenance: no {', '.join(missing)}"


def _roles(task: str, turns: tuple[Turn, ...]) -> Iterator[str]:
    roles = [turn.role for turn in turns]
    if unknown := [role for role in roles if role not in ROLES]:
        yield f"role: {unknown[0]!r} is not one of {', '.join(ROLES)}"
        return
    if task == "text" and roles == ["assistant"]:
        return
    spoken = roles[1:] if task == "dialogue" and roles[:1] == ["system"] else roles
    pairs = len(spoken) // 2
    if not pairs or spoken != ["user", "assistant"] * pairs:
        yield f"turns: user and assistant take turns and the latter ends, found {roles}"


def _image_places(sample: Sample) -> Iterator[str]:
    places = Counter(s.index for turn in sample.turns for s in turn.content if isinstance(s, Image))
    for index, count in sorted(places.items()):
        if not 0 <= index < len(sample.images):
            yield f"image place: image {index} of {len(sample.images)}"
        elif count > 1:
            yield f"image place: image {index} occurs {count} times"
    for index in range(len(sample.images)):
        if index not in places:
            yield f"image place: image {index} is in no turn"


def _image(index: int, image: bytes) -> Iterator[str]:
    try:
        images.load(image)
    except ImageError as error:
        yield f"image: image {index}: {error}"


def _segments(content: Content) -> Iterator[str]:
    for segment in content:
        match segment:
            case Text(text) | Ref(text) if not encodable(text):
                yield f"text: unpaired surrogate in {text!r}"
            case Text(text) | Ref(text) if tag := stray_tag(text):
                yield f"tag: {tag} stands among words: {text[:80]!r}"
            case Ref(text) if not text.strip():
                yield "phrase: empty"
            case Box() if segment.x1 == segment.x2 or segment.y1 == segment.y2:
                yield f"box: {segment.inner} has no area"
            case Quad() if fault := quad_fault(segment):
                yield f"quad: {segment.inner} {fault}"


def quad_fault(quad: Quad) -> str | None:
    """What is wrong with its corners: they must run clockwise around an area, without crossing."""
    c = quad.as_tuple
    points = [(c[i], c[i + 1]) for i in range(0, 8, 2)]
    area = sum(_cross((0, 0), points[i], points[(i + 1) % 4]) for i in range(4))  # y points down
    turns = [_cross(points[i], points[(i + 1) % 4], points[(i + 2) % 4]) for i in range(4)]
    if min(turns) < 0 < max(turns):
        return "crosses itself or is not convex"
    if area == 0:
        return "has no area"
    return "runs anticlockwise" if area < 0 else None


def _cross(origin: tuple[int, int], a: tuple[int, int], b: tuple[int, int]) -> int:
    return (a[0] - origin[0]) * (b[1] - origin[1]) - (a[1] - origin[1]) * (b[0] - origin[0])


def _answer(task: str, content: Content) -> Iterator[str]:
    if not any(isinstance(s, Box | Quad) or (isinstance(s, Text | Ref) and s.text.strip()) for s in content):
        yield "answer: empty"
    if any(isinstance(s, Image) for s in content):
        yield "answer: an image stands in it"
    kind = ANSWER_HOLDS.get(task)
    if kind and not any(isinstance(s, kind) for s in content):
        yield f"answer: task {task} asks for a {kind.__name__.lower()} and has none"


def _open_phrase(content: Content) -> bool:
    """Whether a question names a phrase whose place the answer must give."""
    following = zip(content, (*content[1:], None), strict=True)
    return any(isinstance(s, Ref) and not isinstance(after, Box | Quad) for s, after in following)


def _orphans(content: Iterable[object], asked: bool) -> Iterator[bool]:
    """For each box and quad, whether it belongs to no phrase; blank text between the two is allowed."""
    owned = asked
    for segment in content:
        match segment:
            case Ref():
                owned = True
            case Box() | Quad():
                yield not owned
            case Text(text) if text.strip():
                owned = False
