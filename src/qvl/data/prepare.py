"""A user's dialogues -> checked shards to train on, and a part held out."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qvl.data.damage import Damage
from qvl.data.lint import IN_PIXELS, lint_split
from qvl.data.sample import Sample, read_split, replacing_split, write_split
from qvl.data.sources.convert import LEFT_OUT_NAME, convert
from qvl.data.sources.dialogues import form_of
from qvl.errors import DataError, UsageError
from qvl.files import appearing, write_text
from qvl.text.render import Rendered, render
from qvl.text.tokenizer import Tokenizer

TRAIN, HELD_OUT = "train", "held_out"
ACCOUNT_NAME = "data.json"
HELD_OUT_SHARE = 0.05
SHOWN = 5  # problems that an error spells out


@dataclass(frozen=True)
class Account:
    """What became of the user's samples, and for which model they were checked."""

    data: str
    checked: dict[str, Any]  # the file's hash, and the model's limits
    form: str  # of the file: qwen, llava, messages
    train: int
    held_out: int
    left_out: dict[str, int]  # kind of problem -> samples
    notes: list[str]  # what else the user should know

    def summary(self) -> str:
        """For the terminal."""
        lines = [f"{self.data} ({self.form}): {self.train:,} samples to train on, {self.held_out:,} held out"]
        lines += [f"  left out, {kind}: {count:,}" for kind, count in self.left_out.items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class Reading:
    """How a model reads samples: its vocabulary, places of a picture, and tokens that fit."""

    tokenizer: Tokenizer
    num_image_tokens: int
    max_length: int

    def render(self, sample: Sample) -> Rendered | None:
        """None where not even the first exchange fits."""
        turns = [(turn.role, turn.content) for turn in sample.turns]
        return render(turns, sample.task, self.tokenizer, self.num_image_tokens, self.max_length)


def prepare_dialogues(
    data: Path, out: Path, reading: Reading, *, images_dir: Path | None = None, leave_out_bad: bool = False
) -> Account:
    """Write the samples of a file to out/train and out/held_out; the same call again changes nothing.

    images_dir: where the paths of pictures start (the file's own folder). About one sample in 20 is held out, by a hash
    of its first picture, so that samples about one picture stay together, or of its id. Raises DataError with the first
    problems of bad samples, or with leave_out_bad lists them in out/left_out.jsonl; UsageError where `out` was made of
    something else.
    """
    try:
        sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{data}: {error.strerror}; give a file of dialogues") from error
    checked = {"sha256": sha256, "num_image_tokens": reading.num_image_tokens, "max_length": reading.max_length}
    if (path := out / ACCOUNT_NAME).exists():
        before = Account(**json.loads(path.read_text(encoding="utf-8")))
        if before.checked != checked:
            raise UsageError(f"{out}: was made of other data or for another model; choose another folder or delete it")
        return before
    with appearing(out) as staged:
        account = _prepare(data, staged, reading, images_dir or data.parent, leave_out_bad, checked)
        write_text(staged / ACCOUNT_NAME, json.dumps(asdict(account), indent=1, ensure_ascii=False) + "\n")
    return account


def choose_held_out(groups: dict[str, str]) -> set[str]:
    """Sample id -> its group; the ids of about HELD_OUT_SHARE of the groups, of one at least and never of all. Where
    there is a single group, its samples part."""
    if len(set(groups.values())) == 1:
        groups = {sample_id: sample_id for sample_id in groups}
    places = {group: _place(group) for group in groups.values()}
    below = sum(place < HELD_OUT_SHARE for place in places.values())
    chosen = set(sorted(places, key=places.__getitem__)[: min(max(below, 1), len(places) - 1)])
    return {sample_id for sample_id, group in groups.items() if group in chosen}


def _place(group: str) -> float:
    """In [0, 1), the same wherever it is computed."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6]) / 2**48


def _prepare(
    data: Path, folder: Path, reading: Reading, images_dir: Path, leave_out_bad: bool, checked: dict[str, Any]
) -> Account:
    everything = folder / "all"
    form = form_of(data)
    converted = convert(form, [data], everything, images_dir=images_dir, overwrite=True)
    bad = [Damage(**json.loads(line)) for line in (everything / LEFT_OUT_NAME).read_text(encoding="utf-8").splitlines()]
    linted = lint_split(everything, reading.tokenizer, reading.num_image_tokens, reading.max_length)
    groups: dict[str, str] = {}
    cut = 0
    for sample in read_split(everything):
        rendered = reading.render(sample)
        if problem := linted.bad.get(sample.id):
            kind, _, detail = problem.partition(": ")
            bad.append(Damage(kind, sample.provenance["row"].removeprefix(f"{data.name}#"), detail))
        elif rendered is not None:
            groups[sample.id] = hashlib.sha256(sample.images[0]).hexdigest() if sample.images else sample.id
            cut += rendered.dropped_turns > 0
    notes = [f"{name}: {count:,}" for name, count in converted.statistics.items()]
    if cut:
        notes.append(f"dialogues that lose their last turns, being longer than {reading.max_length:,} tokens: {cut:,}")
    if IN_PIXELS in linted.kinds:
        notes.append("every box ends within its picture's pixels: are they in [0, 1000), as they must be?")
    if (bad or IN_PIXELS in linted.kinds) and not leave_out_bad:
        raise DataError(_told(data, bad, notes))
    if len(groups) < 2:
        raise DataError(f"{data}: {len(groups)} samples can be used; at least 2 are needed, one of them held out")
    held_out = choose_held_out(groups)
    for name, ids in ((TRAIN, groups.keys() - held_out), (HELD_OUT, held_out)):
        with replacing_split(folder / name, overwrite=False) as split:
            write_split((sample for sample in read_split(everything) if sample.id in ids), split, "samples")
    shutil.rmtree(everything)
    write_text(folder / LEFT_OUT_NAME, "".join(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in bad))
    left_out: Counter[str] = Counter()
    for damage in bad:
        left_out[damage.kind] += max(damage.rows, 1)
    return Account(str(data), checked, form, len(groups) - len(held_out), len(held_out), dict(left_out), notes)


def _told(data: Path, bad: list[Damage], notes: list[str]) -> str:
    """The first problems, for an error."""
    problems = [f"row {damage.key}: {damage.kind}: {damage.detail}".removesuffix(": ") for damage in bad]
    more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
    shown = "\n  ".join([*problems[:SHOWN], *more, *notes])
    count = sum(max(damage.rows, 1) for damage in bad)
    return f"{data}: {count} samples have problems; repair them, or train without them by --leave-out-bad:\n  {shown}"
