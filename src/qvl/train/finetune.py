"""A user's dialogues and a checkpoint -> a fine-tuning: samples checked and split, a complete recipe, the training.

Everything lies in one folder, which is a stage of the folder above it: `qvl train OUT/finetune.toml --out OUT/..` does
the same again.
"""

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qvl.checkpoint.layout import load_config, quantization_of
from qvl.data.lint import LintReport, lint, lint_split
from qvl.data.packing import pack
from qvl.data.raw import parse_json
from qvl.data.sample import Sample, read_split, replacing_split, shard_paths, write_split
from qvl.data.sources.common import read_json
from qvl.data.sources.convert import LEFT_OUT_NAME, convert
from qvl.errors import DataError, UsageError
from qvl.files import write_text
from qvl.model.config import QwenVLConfig
from qvl.text.render import render
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import (
    DataConfig,
    HeldOutConfig,
    LoraConfig,
    OptimConfig,
    Recipe,
    recipe_from_dict,
    recipe_to_toml,
)
from qvl.train.trainer import check_unclaimed

RECIPE_NAME = "finetune.toml"
ACCOUNT_NAME = "data.json"  # what became of the user's data; written when its shards are
HELD_OUT_SHARE = 0.05
ROW_LENGTH = 2048  # at most, as published
ROW_SAMPLES, STEP_ROWS = 4, 4  # a row holds about so many samples, a step so many rows
EPOCHS, LEAST_STEPS = 5, 100
EVALUATIONS = 10
SHOWN = 5  # problems that an error spells out
# Full: stage 3's (Table 8). Adapters: their product starts at zero and counts alpha / r = 1/4, and they have fewer
# directions to go; ten times the full rate is the usual choice (LoRA, arXiv 2106.09685, appendix D).
PEAK_LR = {"full": 1e-5, "lora": 1e-4}


@dataclass(frozen=True)
class Account:
    """What became of the user's samples."""

    data: str
    sha256: str
    model: str
    form: str  # of the file: qwen, llava, messages
    train: int
    held_out: int
    left_out: dict[str, int]  # kind of problem -> samples
    cut: int  # dialogues that lose their last turns, since they don't fit a row

    def summary(self) -> str:
        """For the terminal."""
        lines = [f"{self.data} ({self.form}): {self.train:,} samples to train on, {self.held_out:,} held out"]
        lines += [f"  left out, {kind}: {count:,}" for kind, count in self.left_out.items()]
        lines += [f"  {self.cut:,} dialogues lose their last turns, which don't fit a row"] if self.cut else []
        return "\n".join(lines)


def prepare(
    model_dir: Path,
    data: Path,
    out: Path,
    *,
    images_dir: Path | None = None,
    method: str = "lora",
    epochs: float | None = None,
    leave_out_bad: bool = False,
    overrides: tuple[str, ...] = (),
) -> tuple[Path, Account]:
    """Write the samples as shards to out/data and the recipe to out/finetune.toml; that file, and the account.

    images_dir: where the paths of pictures start (the data's own folder). method: full, lora or nf4. epochs: as
    many as 5, or as 100 steps take. The same call again changes nothing. Raises DataError with the first problems of
    samples that can't be trained on, unless they shall be left out; UsageError where `out` holds another fine-tuning.
    """
    config, tokenizer = load_config(model_dir), Tokenizer.from_dir(model_dir)
    if quantization_of(model_dir) is not None and method != "lora":
        raise UsageError(f"{model_dir}: has Int4 matrices already; leave out --{method}: adapters train on them")
    account = _prepare_data(model_dir, data, out, images_dir, leave_out_bad, config, tokenizer)
    lengths = [len(ids) for ids in _rendered_ids(out / "data" / "train", config, tokenizer)]
    recipe = _recipe(model_dir, out, lengths, _max_length(config), method, epochs, overrides)
    check_unclaimed(out, recipe)
    write_text(out / RECIPE_NAME, recipe_to_toml(recipe))
    return out / RECIPE_NAME, account


def form_of(path: Path) -> str:
    """Which of the known forms a file of dialogues has: qwen, llava or messages. DataError for none of them."""
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            line = next((line for line in file if line.strip()), "null")
        try:
            rows = [parse_json(line)]
        except ValueError as error:
            raise DataError(f"{path} line 1: not JSON ({error})") from error
    else:
        rows = read_json(path)
    match rows:
        case [{"messages": _}, *_]:
            return "messages"
        case [{"conversations": _}, *_]:
            whole = path.suffix != ".jsonl"
            marked = any("image" in row or "<image>" in json.dumps(row.get("conversations")) for row in rows[:100])
            return "messages" if not whole else "llava" if marked else "qwen"
    raise DataError(f"{path}: not a list of rows with conversations (Qwen-VL's, LLaVA's) or messages (OpenAI's)")


def _prepare_data(
    model_dir: Path,
    data: Path,
    out: Path,
    images_dir: Path | None,
    leave_out_bad: bool,
    config: QwenVLConfig,
    tokenizer: Tokenizer,
) -> Account:
    try:
        sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{data}: {error.strerror}; give a file of dialogues") from error
    path = out / "data" / ACCOUNT_NAME
    if path.exists():
        before = Account(**json.loads(path.read_text(encoding="utf-8")))
        if (before.sha256, before.model) != (sha256, str(model_dir.absolute())):
            raise UsageError(f"{out}: holds a fine-tuning of {before.model} on {before.data}; choose another --out")
        return before
    form = form_of(data)
    everything = out / "data" / "all"
    convert(form, [data], everything, images_dir=images_dir or data.parent, overwrite=True)
    left_out = [json.loads(line) for line in (everything / LEFT_OUT_NAME).read_text(encoding="utf-8").splitlines()]
    report = lint_split(everything, tokenizer, config.vision.num_queries, _max_length(config))
    if not leave_out_bad and (refusal := _refusal(data, report, left_out)):
        shutil.rmtree(out / "data")
        raise refusal
    kinds: Counter[str] = Counter()
    for damage in left_out:
        kinds[damage["kind"]] += max(damage["rows"], 1)
    good: dict[str, bool] = {}  # sample id -> whether it is held out
    cut = 0
    for sample in read_split(everything):
        rendered = _render(sample, config, tokenizer)
        if rendered is None or (problems := lint(sample)):
            kinds[problems[0].split(":", 1)[0] if rendered is not None else "length"] += 1
        else:
            good[sample.id] = _hash(sample.id) < HELD_OUT_SHARE
            cut += rendered[1] > 0
    if len(good) < 2:
        raise DataError(f"{data}: {len(good)} samples can be used; at least 2 are needed, one of them held out")
    if len(set(good.values())) == 1:  # too few for chance: the one whose hash comes first
        good = dict.fromkeys(good, False) | {min(good, key=_hash): True}
    for name, held_out in (("train", False), ("held_out", True)):
        with replacing_split(out / "data" / name, overwrite=True) as folder:
            chosen = (sample for sample in read_split(everything) if good.get(sample.id) is held_out)
            write_split(chosen, folder, "samples")
    for shard in shard_paths(everything):
        shard.unlink()
    held = sum(good.values())
    model = str(model_dir.absolute())
    account = Account(str(data), sha256, model, form, len(good) - held, held, dict(kinds), cut)
    write_text(path, json.dumps(asdict(account), indent=1, ensure_ascii=False) + "\n")
    return account


def _refusal(data: Path, report: LintReport, left_out: list[dict[str, Any]]) -> DataError | None:
    """An error with the first problems; None where there are none."""
    problems = [f"{damage['key']}: {damage['kind']} {damage['detail']}".rstrip() for damage in left_out]
    problems += report.examples
    count = report.faulty + sum(max(damage["rows"], 1) for damage in left_out)
    if not count:
        return None
    shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return DataError(
        f"{data}: {count} of {report.samples + len(left_out)} samples have problems; repair them, or leave them out "
        f"with --leave-out-bad:{shown}{more}"
    )


def _recipe(
    model_dir: Path,
    out: Path,
    lengths: list[int],
    max_length: int,
    method: str,
    epochs: float | None,
    overrides: tuple[str, ...],
) -> Recipe:
    """Defaults that suit the data. lengths: tokens of each sample."""
    wanted = max(ROW_SAMPLES * sum(lengths) / len(lengths), max(lengths))
    row_length = min(max_length, math.ceil(wanted / 64) * 64)
    rows = len(pack(lengths, row_length))
    steps = math.ceil((epochs or EPOCHS) * rows / STEP_ROWS)
    if epochs is None:
        steps = max(LEAST_STEPS, steps)
    model, run_dir = str(model_dir.absolute()), out.name
    rate = PEAK_LR["full" if method == "full" else "lora"]
    recipe = Recipe(
        name=run_dir,
        about=f"Fine-tuning of {model_dir.name}, {len(lengths)} samples: {method}.",
        preset=model,
        objective="next_token",
        init_from=dict.fromkeys(("vision", "adapter", "language"), model),
        trains=("adapter", "language") if method == "full" else ("language",),
        steps=steps,
        grad_accumulation=STEP_ROWS,
        save_every=max(50, steps // 5),
        seed=1,
        data=DataConfig((f"{run_dir}/data/train",), {"dialogue": 1.0}, 1, row_length, "isolated"),
        optim=OptimConfig(rate, rate / 10, math.ceil(0.03 * steps), vision_layer_decay=1.0),
        lora=None if method == "full" else LoraConfig(quantize="nf4" if method == "nf4" else "no"),
        held_out=HeldOutConfig((f"{run_dir}/data/held_out",), max(1, steps // EVALUATIONS)),
    )
    return recipe_from_dict(json.loads(json.dumps(asdict(recipe))), overrides)


def _max_length(config: QwenVLConfig) -> int:
    return min(ROW_LENGTH, config.language.seq_length)


def _rendered_ids(split: Path, config: QwenVLConfig, tokenizer: Tokenizer) -> Iterator[list[int]]:
    for sample in read_split(split):
        if rendered := _render(sample, config, tokenizer):
            yield rendered[0]


def _render(sample: Sample, config: QwenVLConfig, tokenizer: Tokenizer) -> tuple[list[int], int] | None:
    """Its ids and how many turns were dropped."""
    turns = [(turn.role, turn.content) for turn in sample.turns]
    rendered = render(turns, sample.task, tokenizer, config.vision.num_queries, _max_length(config))
    return None if rendered is None else (rendered.input_ids, rendered.dropped_turns)


def _hash(sample_id: str) -> float:
    """In [0, 1), the same wherever it is computed."""
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:6]) / 2**48
