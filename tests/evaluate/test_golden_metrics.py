"""The benchmarks' metrics on recorded outputs of the original scorers, quirks and all (tests/data/metrics)."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qvl.evaluate.metrics.anls import anls
from qvl.evaluate.metrics.bleu import bleu, bleu_counts
from qvl.evaluate.metrics.choice import LETTERS, likeliest, option_loss, seed_scores
from qvl.evaluate.metrics.cider import cider
from qvl.evaluate.metrics.exact import exact_answer, gqa_answer
from qvl.evaluate.metrics.mme import subtask, totals, yes_or_no
from qvl.evaluate.metrics.ptb import all_words, words
from qvl.evaluate.metrics.referring import answered_box, iou, is_right
from qvl.evaluate.metrics.relaxed import relaxed_match, within
from qvl.evaluate.metrics.rouge import rouge_l
from qvl.evaluate.metrics.text import edit_distance
from qvl.evaluate.metrics.vqa import normalise_prediction, percent, process_punctuation, process_words, vqa_score

GOLDEN = Path(__file__).parents[1] / "data" / "metrics"


@cache
def golden(name: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_captions_are_tokenised() -> None:
    for case in golden("ptb_tokenizer")["cases"]:
        assert " ".join(words(case["text"], "zzz")) == case["tokenized"], case
    for case in golden("ptb_tokenizer")["context_cases"]:
        assert [" ".join(found) for found in all_words(case["lines"])] == case["tokenized"], case


@pytest.mark.parametrize("corpus", golden("captions")["corpora"], ids=lambda corpus: str(corpus["name"]))
def test_captions_are_scored(corpus: dict[str, Any]) -> None:
    images = corpus["images"]
    if not corpus["pretokenized"]:
        said = [" ".join(found) for found in all_words([image["candidate"] for image in images])]
        assert said == [image["tokenized_candidate"] for image in images]
        captions = [caption for image in images for caption in image["references"]]
        told = [caption for image in images for caption in image["tokenized_references"]]
        assert [" ".join(found) for found in all_words(captions)] == told
    predictions = [image["tokenized_candidate"].split() for image in images]
    references = [[caption.split() for caption in image["tokenized_references"]] for image in images]
    scores = cider(predictions, references)
    assert scores == pytest.approx([image["scores"]["CIDEr"] for image in images], abs=1e-9)
    assert mean(scores) == pytest.approx(corpus["corpus"]["CIDEr"], abs=1e-9)
    counts = list(map(bleu_counts, predictions, references))
    names = [f"Bleu_{n}" for n in range(1, 5)]
    assert bleu(counts) == pytest.approx([corpus["corpus"][name] for name in names], abs=1e-12)
    for count, image in zip(counts, images, strict=True):
        assert bleu([count]) == pytest.approx([image["scores"][name] for name in names], abs=1e-12)
    found = [
        rouge_l(image["tokenized_candidate"].split(" "), [text.split(" ") for text in image["tokenized_references"]])
        for image in images
    ]
    assert found == pytest.approx([image["scores"]["ROUGE_L"] for image in images], abs=1e-12)
    assert mean(found) == pytest.approx(corpus["corpus"]["ROUGE_L"], abs=1e-12)


def test_vqa_answers_are_normalised() -> None:
    for case in golden("vqa_accuracy")["normalization"]:
        text = case["text"]
        assert process_punctuation(text) == case["process_punctuation"], text
        assert process_words(text) == case["process_digit_article"], text
        assert process_words(process_punctuation(text)) == case["both"], text


def test_vqa_scores() -> None:
    cases = golden("vqa_accuracy")["cases"]
    scores = [vqa_score(case["prediction"], case["answers"]) for case in cases]
    assert scores == pytest.approx([case["expected"]["accuracy"] for case in cases], abs=1e-9)
    for case in cases:
        assert normalise_prediction(case["prediction"]) == case["expected"]["normalized_prediction"]
    expected = golden("vqa_accuracy")["expected_overall"]
    assert percent(scores) == expected["overall"]
    for kind, field in (("perAnswerType", "answer_type"), ("perQuestionType", "question_type")):
        for name, value in expected[kind].items():
            assert percent([s for s, case in zip(scores, cases, strict=True) if case[field] == name]) == value


def test_anls() -> None:
    cases = golden("anls")["cases"]
    for threshold, key in ((0.5, "expected"), (0.8, "expected_threshold_0.8")):
        scores = [anls(case["prediction"], case["answers"], threshold) for case in cases]
        assert scores == pytest.approx([case[key] for case in cases], abs=1e-12)
    scores = [anls(case["prediction"], case["answers"]) for case in cases]
    assert mean(scores) == pytest.approx(golden("anls")["expected_overall"])
    for case in golden("anls")["levenshtein"]:
        assert edit_distance(case["a"], case["b"]) == case["distance"]


def test_relaxed_accuracy() -> None:
    cases = golden("relaxed_accuracy")["cases"]
    found = [relaxed_match(case["prediction"], case["annotation"]) for case in cases]
    assert found == [case["expected"] for case in cases]
    assert mean([float(right) for right in found]) == pytest.approx(golden("relaxed_accuracy")["expected_overall"])
    for case in golden("relaxed_accuracy")["pix2struct_cases"]:
        assert within(case["target"], case["prediction"]) == case["expected"], case


def test_exact_match_of_gqa_and_the_others() -> None:
    for case in golden("exact_match")["gqa"]["cases"]:
        said = gqa_answer(case["prediction"])
        assert said == case["normalized_prediction"], case
        assert exact_answer(said, case["annotation"]) == case["expected"], case
    for case in golden("exact_match")["exact_match"]["cases"]:
        assert exact_answer(case["prediction"], case["annotation"]) == case["expected"], case


def test_referring_boxes_to_the_last_bit() -> None:
    right = 0
    for case in golden("grounding")["cases"]:
        (height, width), expected = case["hw"], case["expected"]
        box = answered_box(case["answer"], width, height)
        said = np.array(expected["predicted_bbox_pixels_xyxy_float32"], np.float32)
        assert np.array_equal(box, said, equal_nan=True), case
        if np.isfinite(found := iou(box, case["gt_bbox_xyxy"])):
            assert found == pytest.approx(expected["iou_float32"], abs=1e-7), case
        assert is_right(case["answer"], case["gt_bbox_xyxy"], width, height) == expected["correct"], case
        right += expected["correct"]
    assert right == golden("grounding")["expected_correct"]


@pytest.mark.parametrize("benchmark", ["scienceqa", "seed_bench"])
def test_multiple_choice_by_likelihood(benchmark: str) -> None:
    for group in golden("multiple_choice")[benchmark]["scoring"]:
        for case in group["cases"]:
            losses = [
                option_loss(torch.tensor(option["target_logits"]), torch.tensor(option["target_ids"]))
                for option in case["options"]
            ]
            assert losses == pytest.approx(case["expected_option_loss_float32"], abs=1e-6)
            chosen = likeliest(losses)
            assert chosen == case["expected_prediction_index"]
            answer = case["answer"] if isinstance(case["answer"], int) else LETTERS.index(case["answer"])
            assert (chosen == answer) == case["expected_correct"]


def test_seed_bench_by_type() -> None:
    group = golden("multiple_choice")["seed_bench_aggregation"]
    found = seed_scores((item["question_type_id"], item["prediction"] == item["answer"]) for item in group["items"])
    assert {str(kind): score for kind, score in found.per_type.items()} == pytest.approx(group["expected"]["per_type"])
    for name in ("image", "video", "overall"):
        assert getattr(found, name) == pytest.approx(group["expected"][name])


def test_mme() -> None:
    for case in golden("mme")["parse_cases"]:
        assert yes_or_no(case["text"]) == case["expected"], case
    for group in golden("mme")["sets"]:
        expected = group["expected"]
        found = {
            name: subtask([row[3] for row in rows], [row[2] for row in rows]) for name, rows in group["results"].items()
        }
        assert {name: one.score for name, one in found.items()} == pytest.approx(expected["subtask_score"])
        for name, one in found.items():
            assert one.others == expected["subtask_metrics"][name]["other_num"]
        for kind, total in totals(found).items():
            assert total == pytest.approx(expected[kind])
