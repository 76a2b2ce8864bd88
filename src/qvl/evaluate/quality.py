"""What a change of the weights costs: loss, answers and boxes on held-out samples, one model beside another."""

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qvl import images
from qvl.data.sample import Sample, read_shard, shard_paths
from qvl.errors import UsageError
from qvl.evaluate.answering import LocalModel
from qvl.evaluate.benchmarks import members
from qvl.evaluate.run import Asked, evaluate
from qvl.evaluate.world import world_scores
from qvl.model.qwen_vl import QwenVL
from qvl.text.render import Rendered, render
from qvl.text.tokenizer import Tokenizer

BATCH_SIZE = 32
SCORED = {"vqa": "vqa_accuracy", "referring": "accuracy_iou50"}  # task -> its metric


@dataclass(frozen=True)
class Quality:
    """loss: mean over the supervised tokens. vqa and boxes: mean over the languages, None where no sample asks."""

    loss: float
    tokens: int
    vqa: float | None
    boxes: float | None


def some_samples(split: Path, count: int, seed: int = 0) -> list[Sample]:
    """So many, from all shards alike, at random. UsageError where there are fewer."""
    chance = random.Random(seed)
    paths = shard_paths(split)
    chance.shuffle(paths)
    found: list[Sample] = []
    for place, path in enumerate(paths):
        rows = list(read_shard(path))
        wanted = -(-(count - len(found)) // (len(paths) - place))
        found += chance.sample(rows, min(wanted, len(rows)))
    if len(found) < count:
        raise UsageError(f"{split}: {len(found)} samples, {count} are asked for")
    return found


def encoded(sample: Sample, model: QwenVL, tokenizer: Tokenizer) -> tuple[Rendered, Tensor | None] | None:
    """As in training: its tokens with labels, and pixel_values (N, 3, S, S); None where the model is too short."""
    config = model.config
    turns = [(turn.role, turn.content) for turn in sample.turns]
    rendered = render(turns, sample.task, tokenizer, config.vision.num_queries, config.language.seq_length)
    if rendered is None or not rendered.image_indices:
        return None if rendered is None else (rendered, None)
    weight = model.vision.conv1.weight
    shown = [images.preprocess(sample.images[i], config.vision.image_size) for i in rendered.image_indices]
    return rendered, torch.stack(shown).to(weight.device, weight.dtype)


def quality(model: QwenVL, tokenizer: Tokenizer, split: Path, samples: Sequence[Sample], limit: int) -> Quality:
    """The loss on `samples`, and answers to at most `limit` questions of each task and language of the split."""
    loss, tokens = _loss(model, tokenizer, samples)
    tasks = {sample.task for sample in samples}
    asked = [one for one in members("world") if one.name.removeprefix("world-") in SCORED.keys() & tasks]
    precision = "bf16" if model.vision.conv1.weight.dtype == torch.bfloat16 else "float32"
    with tempfile.TemporaryDirectory() as out:
        answerer = LocalModel(model, tokenizer, BATCH_SIZE, precision)
        for _ in evaluate(asked, split, answerer, "quality", Path(out), Asked(limit=limit)):
            pass
        scores = world_scores(Path(out))

    def mean(task: str) -> float | None:
        values = [groups[task]["scores"][SCORED[task]] for groups in scores.values() if task in groups]
        return sum(values) / len(values) if values else None

    return Quality(loss, tokens, mean("vqa"), mean("referring"))


def quality_table(rows: Mapping[str, tuple[Quality, int, str]]) -> str:
    """Markdown: name -> quality, bytes of the weights, kernels; the first row is what the others are compared with."""
    first = next(iter(rows.values()))[0]
    lines = ["| weights | size | loss | | VQA | boxes |", "|---|---|---|---|---|---|"]
    for name, (one, size, _) in rows.items():
        beside = "" if one is first else f"{100 * (one.loss / first.loss - 1):+.2f} %"
        answers = f"{_percent(one.vqa)} | {_percent(one.boxes)}"
        lines.append(f"| {name} | {size / 1e6:.1f} MB | {one.loss:.4f} | {beside} | {answers} |")
    kernels = "\n".join(f"- {name}: {said}" for name, (_, _, said) in rows.items())
    about = f"Loss over {first.tokens} supervised tokens. VQA accuracy, and boxes right at IoU 0.5."
    return "\n".join(lines) + f"\n\n{about} Kernels:\n{kernels}\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


@torch.inference_mode()
def _loss(model: QwenVL, tokenizer: Tokenizer, samples: Sequence[Sample]) -> tuple[float, int]:
    total, tokens = 0.0, 0
    device = model.vision.conv1.weight.device
    for sample in samples:
        read = encoded(sample, model, tokenizer)
        if read is not None:
            rendered, pixels = read
            ids, labels = (torch.tensor([one], device=device) for one in (rendered.input_ids, rendered.labels))
            summed, count = model.loss(ids, labels, pixels)
            total, tokens = total + float(summed), tokens + int(count)
    if not tokens:
        raise UsageError("no sample has a supervised token that fits the model's length")
    return total / tokens, tokens
