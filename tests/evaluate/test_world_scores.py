"""Samples of shards as benchmarks: scored by task and language beside the best constant answer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import qvl
from qvl.data.sample import read_split, write_shard
from qvl.errors import DataError
from qvl.evaluate.answering import LocalModel
from qvl.evaluate.benchmarks import BY_NAME, members
from qvl.evaluate.predictions import line_of
from qvl.evaluate.run import Asked, read_items, rescore
from qvl.evaluate.scoring import MAIN_METRIC, TASKS
from qvl.evaluate.world import evaluate_world, world_predictions, world_scores
from qvl.generate.loaded import QwenVLWithTokenizer, answer_content
from qvl.model.config import PRESETS
from qvl.text.markup import Text, to_string


@pytest.fixture(scope="module")
def loaded(checkpoint_dir: Path) -> QwenVLWithTokenizer:
    return qvl.load(checkpoint_dir)


@pytest.fixture(scope="module")
def answered(loaded: QwenVLWithTokenizer, split_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("answered")
    evaluate_world(loaded.model, loaded.tokenizer, split_dir, out, "untrained")
    return out


def test_every_task_and_language_is_scored_beside_guessing(answered: Path) -> None:
    scores = world_scores(answered)
    assert set(scores) == {"en", "zh", "all"}
    for language, count in (("en", 2), ("zh", 2), ("all", 4)):
        assert set(scores[language]) == set(TASKS)
        for task, group in scores[language].items():
            assert group["samples"] == count
            assert group["scores"].keys() == group["best_constant"].keys()
            assert MAIN_METRIC[task] in group["scores"]


def test_predictions_are_kept_with_question_and_truth(answered: Path, split_dir: Path) -> None:
    samples = {sample.id: sample for sample in read_split(split_dir)}
    assert set(world_predictions(answered)) == {s.id for s in samples.values() if s.task in TASKS}
    for task in TASKS:
        lines = (answered / f"world-{task}" / "predictions.jsonl").read_text().splitlines()
        for line in map(json.loads, lines):
            assert line["language"] == line["group"] == samples[line["id"]].language
            assert line["question"]
            assert line["truth"]
    assert not list(answered.rglob(".*")), "temporary files stay behind"


def test_scores_of_perfect_and_of_empty_answers(answered: Path, split_dir: Path) -> None:
    samples = {sample.id: sample for sample in read_split(split_dir)}
    for task in ("vqa", "dialogue", "referring", "grounding", "ocr"):
        folder = answered / f"world-{task}"
        path = folder / "predictions.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for perfect in (True, False):
            said = [to_string(samples[row["id"]].turns[-1].content) if perfect else "" for row in rows]
            path.write_text("".join(json.dumps({**r, "answer": s}) + "\n" for r, s in zip(rows, said, strict=True)))
            scores = rescore(folder)
            assert scores["score"] == (100.0 if perfect else 0.0), task
            assert scores["unparsed"] == (0 if perfect else len(rows))
            assert scores["details"]["languages"]["zh"]["scores"][MAIN_METRIC[task]] == float(perfect)


def test_answers_belong_to_their_samples_whatever_the_batch(loaded: QwenVLWithTokenizer, split_dir: Path) -> None:
    """Batches are made of like prompts, so samples leave in another order; pictures must go along."""

    def answers(batch_size: int) -> dict[str, str]:
        model = LocalModel(loaded.model, loaded.tokenizer, batch_size)
        given = {}
        for benchmark in members("world"):
            items, _ = read_items(benchmark, split_dir, Asked())
            for batch in model.answers(items, replace(benchmark.decoding, max_new_tokens=6)):
                given |= {item.id: line_of(item, reply) for item, reply in batch}
        return given

    assert answers(5) == answers(1)
    assert len(set(answers(5).values())) > 1


def test_limit_counts_by_task_and_language(split_dir: Path) -> None:
    for task in TASKS:
        items, total = read_items(BY_NAME[f"world-{task}"], split_dir, Asked(limit=1))
        assert ([item.language for item in items], total) == (["en", "zh"], 4)


def test_tasks_that_a_split_lacks_are_left_out(
    loaded: QwenVLWithTokenizer, split_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One's own shards hold dialogues alone; folders without any scored task are named."""
    dialogues = [sample for sample in read_split(split_dir) if sample.task == "dialogue"]
    write_shard(dialogues, tmp_path / "data" / "own.parquet")
    scores = evaluate_world(loaded.model, loaded.tokenizer, tmp_path / "data", tmp_path / "out", "untrained")
    assert set(scores["all"]) == {"dialogue"}
    assert "world-caption: no such samples" in capsys.readouterr().out
    write_shard([replace(dialogues[0], task="text")], tmp_path / "text" / "own.parquet")
    with pytest.raises(DataError, match=str(tmp_path / "text")):
        evaluate_world(loaded.model, loaded.tokenizer, tmp_path / "text", tmp_path / "out", "untrained")


def test_the_answer_may_hold_any_token(loaded: QwenVLWithTokenizer) -> None:
    """An untrained model says image tags without an end, and rows that stand for no token."""
    special = loaded.tokenizer.special
    ids = [special.img_start, *loaded.tokenizer.encode("red"), PRESETS["tiny"].language.vocab_size - 1]
    assert answer_content(ids, loaded.tokenizer) == (Text("<img>red"),)
