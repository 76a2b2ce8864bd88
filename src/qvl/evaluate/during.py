"""Benchmarks while a model trains: the paper's Figure 6, zero-shot captions and answers as stage 1 goes."""

import json
from collections.abc import Sequence
from pathlib import Path

from qvl.evaluate.answering import LocalModel
from qvl.evaluate.benchmarks import chosen
from qvl.evaluate.run import SCORES_NAME, Asked, evaluate
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer

FOLDER_NAME = "benchmarks"  # in a stage's folder
STEP_NAME = "step-{:07d}"
Curves = dict[str, list[tuple[float, float]]]  # benchmark -> (steps done, score)


def evaluate_step(
    stage_dir: Path,
    step: int,
    model: QwenVL,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    data: Path,
    limit: int,
    precision: str,
) -> None:
    """Answers and scores of the model after so many steps, into STAGE/benchmarks/step-N."""
    out = stage_dir / FOLDER_NAME / STEP_NAME.format(step)
    answerer = LocalModel(model, tokenizer, precision=precision)
    name = f"{stage_dir.name}, step {step}, {precision}"
    for _ in evaluate(chosen(tasks), data, answerer, name, out, Asked(limit=limit), progress=False):
        pass  # scored and written


def curves(stage_dir: Path) -> Curves:
    """Every benchmark's scores as training went; empty where none was asked."""
    found: Curves = {}
    for folder in sorted((stage_dir / FOLDER_NAME).glob("step-*")):
        for path in sorted(folder.glob(f"*/{SCORES_NAME}")):
            score = json.loads(path.read_text(encoding="utf-8")).get("score")
            if score is not None:
                found.setdefault(path.parent.name, []).append((float(folder.name.partition("-")[2]), score))
    return found
