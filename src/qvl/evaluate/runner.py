"""A held-out split -> answers and scores, by task and language."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from qvl import images
from qvl.data.sample import LANGUAGES, Sample, read_split
from qvl.errors import DataError
from qvl.evaluate.scoring import TASKS, best_constant, score
from qvl.files import write_text
from qvl.generate.chat import answer_content, stop_ids
from qvl.generate.engine import generate
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.markup import Content, from_json, to_json, to_string
from qvl.text.render import Rendered, render_prompt
from qvl.text.tokenizer import Tokenizer

SCORES_NAME, PREDICTIONS_NAME = "scores.json", "predictions.jsonl"


@dataclass(frozen=True)
class Answer:
    """One sample with what the model said."""

    sample: Sample
    prediction: Content

    @property
    def reference(self) -> Content:
        return self.sample.turns[-1].content


def evaluate(
    model: QwenVL,
    tokenizer: Tokenizer,
    split_dirs: Sequence[Path],
    out_dir: Path,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    max_new_tokens: int = 112,
) -> dict[str, Any]:
    """Answer up to `limit` samples of each task and language greedily; write scores.json, predictions.jsonl.

    Returns {"en": {task: {"samples", "scores", "best_constant"}}, "zh": ..., "all": ...}. Every sample asked
    is scored: what can't be parsed counts as wrong.
    """
    samples = select(split_dirs, limit)
    answers = list(answer(model, tokenizer, samples, batch_size, max_new_tokens))
    scores = score_answers(answers)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / PREDICTIONS_NAME, "".join(prediction_line(a) for a in answers))
    write_text(out_dir / SCORES_NAME, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    return scores


def select(split_dirs: Sequence[Path], limit: int | None) -> list[Sample]:
    """The first `limit` samples of every scored task and language, in the split's order."""
    taken: dict[tuple[str, str], int] = defaultdict(int)
    chosen = []
    for split_dir in split_dirs:
        for sample in read_split(split_dir):
            key = (sample.task, sample.language)
            if sample.task in TASKS and (limit is None or taken[key] < limit):
                taken[key] += 1
                chosen.append(sample)
    if not chosen:
        raise DataError(f"{', '.join(map(str, split_dirs))}: no sample of a task that is scored")
    return chosen


@torch.inference_mode()
def answer(
    model: QwenVL, tokenizer: Tokenizer, samples: Sequence[Sample], batch_size: int, max_new_tokens: int
) -> Iterator[Answer]:
    """Greedy answers in batches of prompts of like length; in the order of those batches."""
    device = str(model.language.embedding.weight.device)
    queries = model.config.vision.num_queries
    prompts = [
        render_prompt([(t.role, t.content) for t in sample.turns], sample.task, tokenizer, queries)
        for sample in samples
    ]
    # Tasks apart: their answers differ in length by far, and a batch takes as long as its longest.
    order = sorted(range(len(samples)), key=lambda i: (samples[i].task, len(prompts[i].input_ids), i))
    bar = tqdm(total=len(samples), desc="evaluate", unit="sample", dynamic_ncols=True)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        pixels = _pixels(model, [(samples[i], prompts[i]) for i in batch])
        with fast_kernels(device):
            generated = generate(
                model,
                [prompts[i].input_ids for i in batch],
                pixels,
                max_new_tokens=max_new_tokens,
                stop_ids=stop_ids(tokenizer),
            )
        for i, ids in zip(batch, generated, strict=True):
            yield Answer(samples[i], answer_content(ids, tokenizer))
        bar.update(len(batch))
    bar.close()


def _pixels(model: QwenVL, batch: list[tuple[Sample, Rendered]]) -> torch.Tensor | None:
    size = model.config.vision.image_size
    pictures = [images.preprocess(s.images[k], size) for s, rendered in batch for k in rendered.image_indices]
    return torch.stack(pictures).to(model.vision.conv1.weight) if pictures else None


def score_answers(answers: Sequence[Answer]) -> dict[str, Any]:
    """Scores by language (and "all") and task, each beside the best constant answer's."""
    scores: dict[str, Any] = {}
    for language in (*LANGUAGES, "all"):
        groups: dict[str, list[Answer]] = defaultdict(list)
        for one in answers:
            if language in (one.sample.language, "all"):
                groups[one.sample.task].append(one)
        scores[language] = {task: _score_group(task, groups[task]) for task in TASKS if groups[task]}
    return scores


def _score_group(task: str, group: list[Answer]) -> dict[str, Any]:
    references = [a.reference for a in group]
    return {
        "samples": len(group),
        "scores": _rounded(score(task, [a.prediction for a in group], references)),
        "best_constant": _rounded(best_constant(task, references)),
    }


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


def prediction_line(one: Answer) -> str:
    record = {
        "id": one.sample.id,
        "task": one.sample.task,
        "language": one.sample.language,
        "question": question_of(one.sample),
        "prediction": to_json(one.prediction),
        "reference": to_json(one.reference),
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_predictions(path: Path) -> dict[str, Content]:
    """Sample id -> predicted content, from a predictions.jsonl."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {line["id"]: from_json(line["prediction"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no readable predictions ({error}); run `qvl evaluate` again") from error


def question_of(sample: Sample) -> str:
    """The last thing asked, in the published string format without its images."""
    return to_string(asked_content(sample)).strip()


def asked_content(sample: Sample) -> Content:
    """The content of the turn before the answer."""
    return sample.turns[-2].content if len(sample.turns) > 1 else ()
