"""The held-out samples of shards, answered and scored as benchmarks; what the report of a run reads of them."""

import json
from pathlib import Path
from typing import Any

from qvl.errors import DataError
from qvl.evaluate.answering import LocalModel
from qvl.evaluate.benchmarks import members
from qvl.evaluate.predictions import PREDICTIONS_NAME, read_records
from qvl.evaluate.run import SCORES_NAME, Asked, evaluate
from qvl.evaluate.scoring import TASKS
from qvl.model.qwen_vl import QwenVL
from qvl.text.markup import Content, parse_markup
from qvl.text.tokenizer import Tokenizer

BATCH_SIZE = 64  # small pictures, short answers
Scores = dict[str, dict[str, dict[str, Any]]]  # language -> task -> samples, scores, best_constant


def evaluate_world(
    model: QwenVL, tokenizer: Tokenizer, data: Path, out: Path, model_name: str, limit: int | None = None
) -> Scores:
    """Answer at most `limit` samples of each task and language, into OUT/world-TASK."""
    answerer = LocalModel(model, tokenizer, BATCH_SIZE, precision="bf16")
    for _ in evaluate(members("world"), data, answerer, model_name, out, Asked(limit=limit)):
        pass  # scored and written
    return world_scores(out)


def world_scores(out: Path) -> Scores:
    """The scores of every task that was answered; empty before the first."""
    scores: Scores = {}
    for task in TASKS:
        path = out / f"world-{task}" / SCORES_NAME
        if path.exists():
            for language, group in _read(path)["details"]["languages"].items():
                scores.setdefault(language, {})[task] = group
    return scores


def world_predictions(out: Path) -> dict[str, Content]:
    """Sample id -> what was said."""
    paths = [out / f"world-{task}" / PREDICTIONS_NAME for task in TASKS]
    records = [record for path in paths if path.exists() for record in read_records(path)]
    return {record.id: parse_markup(record.answer) for record in records}


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}); run `qvl eval rescore {path.parent}`") from error
    return value
