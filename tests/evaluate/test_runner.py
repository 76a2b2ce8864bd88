import json
from pathlib import Path

import pytest
import torch

import qvl
from qvl.data.sample import read_split
from qvl.errors import DataError
from qvl.evaluate import runner
from qvl.evaluate.runner import Answer, answer, evaluate, read_predictions, score_answers, select
from qvl.evaluate.scoring import MAIN_METRIC, TASKS
from qvl.generate.chat import QwenVLWithTokenizer, answer_content
from qvl.model.config import PRESETS
from qvl.text.markup import Text


@pytest.fixture(scope="module")
def loaded(checkpoint_dir: Path) -> QwenVLWithTokenizer:
    return qvl.load(checkpoint_dir)


def test_every_task_and_language_is_scored_beside_guessing(
    loaded: QwenVLWithTokenizer, split_dir: Path, tmp_path: Path
) -> None:
    scores = evaluate(loaded.model, loaded.tokenizer, [split_dir], tmp_path, max_new_tokens=4)
    assert set(scores) == {"en", "zh", "all"}
    for language, count in (("en", 2), ("zh", 2), ("all", 4)):
        assert set(scores[language]) == set(TASKS)
        for task, group in scores[language].items():
            assert group["samples"] == count
            assert group["scores"].keys() == group["best_constant"].keys()
            assert MAIN_METRIC[task] in group["scores"]
    assert json.loads((tmp_path / "scores.json").read_text()) == scores


def test_predictions_are_kept_with_question_and_reference(
    loaded: QwenVLWithTokenizer, split_dir: Path, tmp_path: Path
) -> None:
    evaluate(loaded.model, loaded.tokenizer, [split_dir], tmp_path, limit=1, max_new_tokens=4)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == len(TASKS) * 2
    samples = {sample.id: sample for sample in read_split(split_dir)}
    for line in lines:
        assert line["task"] == samples[line["id"]].task
        assert line["question"]
        assert line["reference"]
    assert set(read_predictions(tmp_path / "predictions.jsonl")) == {line["id"] for line in lines}
    assert not list(tmp_path.glob(".*")), "temporary files stay behind"


def test_scores_of_perfect_and_of_empty_answers(split_dir: Path) -> None:
    samples = select([split_dir], None)
    perfect = score_answers([Answer(s, s.turns[-1].content) for s in samples])
    empty = score_answers([Answer(s, (Text(""),)) for s in samples])
    for task in ("vqa", "dialogue", "referring", "grounding", "ocr"):
        assert perfect["all"][task]["scores"][MAIN_METRIC[task]] == 1.0, task
        assert empty["all"][task]["scores"][MAIN_METRIC[task]] == 0.0, task
    assert empty["all"]["referring"]["scores"]["unparsed"] == 1.0


def test_answers_belong_to_their_samples_whatever_the_batch(
    loaded: QwenVLWithTokenizer, split_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches are made of like prompts, so samples leave in another order; pictures must go along.

    In float32: a bf16 product depends on the shape of the batch.
    """
    monkeypatch.setattr(runner, "fast_kernels", lambda device: torch.autocast("cpu", enabled=False))
    samples = select([split_dir], None)

    def answers(batch_size: int) -> dict:
        given = answer(loaded.model, loaded.tokenizer, samples, batch_size, 6)
        return {one.sample.id: one.prediction for one in given}

    assert answers(5) == answers(1)
    assert len(set(answers(5).values())) > 1


def test_limit_counts_by_task_and_language(split_dir: Path) -> None:
    samples = select([split_dir], 1)
    assert len(samples) == len({(s.task, s.language) for s in samples}) == len(TASKS) * 2


def test_a_folder_without_scored_tasks_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        select([tmp_path], None)


def test_the_answer_may_hold_any_token(loaded: QwenVLWithTokenizer) -> None:
    """An untrained model says image tags without an end, and rows that stand for no token."""
    special = loaded.tokenizer.special
    ids = [special.img_start, *loaded.tokenizer.encode("red"), PRESETS["tiny"].language.vocab_size - 1]
    assert answer_content(ids, loaded.tokenizer) == (Text("<img>red"),)
