"""A benchmark's answers -> its score: values of single questions, how they add up, and what could not be read."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

from qvl.evaluate.metrics.anls import anls
from qvl.evaluate.metrics.bleu import MAX_N, bleu, bleu_counts
from qvl.evaluate.metrics.choice import LETTERS
from qvl.evaluate.metrics.cider import cider
from qvl.evaluate.metrics.exact import exact_answer, gqa_answer
from qvl.evaluate.metrics.mme import subtask, yes_or_no
from qvl.evaluate.metrics.ptb import all_words
from qvl.evaluate.metrics.referring import answered_box, is_right
from qvl.evaluate.metrics.relaxed import relaxed_match
from qvl.evaluate.metrics.rouge import rouge_l
from qvl.evaluate.metrics.touchstone import Verdict, categories, model_scores, reference_scores
from qvl.evaluate.metrics.vqa import vqa_score
from qvl.evaluate.scoring import MAIN_METRIC, TASKS, best_constant, caption_scores, score
from qvl.evaluate.uncertainty import weighted
from qvl.text.markup import Content, from_json, parse_markup
from qvl.text.special_tokens import ALL_TOKENS

_TAGS = re.compile("|".join(map(re.escape, ALL_TOKENS)))
_LETTER = re.compile(
    rf"^\W*([{LETTERS}])(?:[.:,)\s]*$|[.:)])|(?:answer is|答案是|答案：|选)\W*([{LETTERS}])(?![A-Za-z])", re.IGNORECASE
)
ALL = "all"  # the only stratum of a plain mean


def without_tags(text: str) -> str:
    """What is left of a text without special tokens."""
    return _TAGS.sub("", text)


@dataclass(frozen=True)
class Record:
    """One answered question. verdicts: of TouchStone's judge, a round each."""

    id: str
    answer: str  # with its tags
    truth: Any
    group: str = ""
    language: str = "en"
    question: str = ""
    verdicts: tuple[Verdict | None, ...] | None = None

    @property
    def text(self) -> str:
        """The answer as the published code decodes it, without special tokens."""
        return without_tags(self.answer)


Unit = tuple[str, int]  # a question's id, and which of its units


@dataclass(frozen=True)
class Scored:
    """values: what each unit (a question, MME's picture, a judge's round) adds, in the score's own measure; the score
    is the sum over strata of weight times mean. unparsed: answers that can't be read, which count as wrong."""

    units: list[Unit]
    values: list[float]
    groups: list[str]
    strata: list[str]
    weights: dict[str, float]
    unparsed: int
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        return weighted(self.values, self.strata, self.weights)

    def by_group(self) -> dict[str, dict[str, float]]:
        """group -> its questions and the mean of their values; empty where there are no groups."""
        values: dict[str, list[float]] = defaultdict(list)
        for name, value in zip(self.groups, self.values, strict=True):
            if name:
                values[name].append(value)
        return {name: {"samples": len(values[name]), "score": fmean(values[name])} for name in sorted(values)}


def _mean(records: Sequence[Record], values: list[float], unparsed: int, **details: Any) -> Scored:
    """The plain mean over questions, in per cent."""
    groups = [record.group for record in records]
    strata = [ALL] * len(records)
    units = [(record.id, 0) for record in records]
    return Scored(units, [100 * value for value in values], groups, strata, {ALL: 1.0}, unparsed, details)


def _mean_of_groups(scored: Scored) -> Scored:
    """Each group counts alike, however many questions it has."""
    names = set(scored.groups)
    weights = dict.fromkeys(sorted(names), 1 / len(names))
    return Scored(scored.units, scored.values, scored.groups, scored.groups, weights, scored.unparsed, scored.details)


def _score_each(records: Sequence[Record], of_one: Callable[[str, Any], float]) -> Scored:
    values = [float(of_one(record.text.strip(), record.truth)) for record in records]
    return _mean(records, values, sum(not record.text.strip() for record in records))


def _captions(records: Sequence[Record]) -> Scored:
    """CIDEr of the set, with BLEU and ROUGE-L beside it; all times 100."""
    said = all_words([record.text.strip() for record in records])
    flat = all_words([caption for record in records for caption in record.truth])
    wanted, place = [], 0
    for record in records:
        wanted.append(flat[place : place + len(record.truth)])
        place += len(record.truth)
    # "3 1/2" is one word for ROUGE, two for the others.
    predictions, references = (
        [_split(words) for words in said],
        [[_split(words) for words in group] for group in wanted],
    )
    counts = bleu(map(bleu_counts, predictions, references))
    details = {f"BLEU-{n}": 100 * value for n, value in zip(range(1, MAX_N + 1), counts, strict=True)}
    details["ROUGE-L"] = 100 * fmean(map(rouge_l, said, wanted))
    return _mean(records, cider(predictions, references), sum(not words for words in said), **details)


def _split(words: Sequence[str]) -> list[str]:
    return " ".join(words).split()


def _vqa(answer: str, truth: Sequence[Any]) -> float:
    answers = [a if isinstance(a, dict) else {"answer": a, "answer_id": i} for i, a in enumerate(truth, start=1)]
    return vqa_score(answer, answers)


def _iou50(records: Sequence[Record]) -> Scored:
    values, unparsed = [], 0
    for record in records:
        width, height = record.truth["width"], record.truth["height"]
        unparsed += not answered_box(record.text, width, height).any()
        values.append(float(is_right(record.text, record.truth["box"], width, height)))
    return _mean(records, values, unparsed)


def letter_of(answer: str) -> str:
    """The option that an answer names: a letter alone or before its mark, or after "answer is"; "" for none."""
    found = _LETTER.search(answer.strip())
    return "" if found is None else (found[1] or found[2]).upper()


def _choice(records: Sequence[Record]) -> Scored:
    said = [letter_of(record.text) for record in records]
    values = [float(letter == record.truth) for letter, record in zip(said, records, strict=True)]
    return _mean(records, values, said.count(""))


def _mme(records: Sequence[Record]) -> Scored:
    """A unit is a picture: its two questions, and both right."""
    by_subtask: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_subtask[record.group].append(record)
    units, values, groups = [], [], []
    for name, group in by_subtask.items():
        for first, second in zip(group[::2], group[1::2], strict=True):
            pair = subtask([first.text, second.text], [first.truth, second.truth])
            units.append((first.id, 0))
            values.append(pair.score)
            groups.append(name)
    others = sum(yes_or_no(record.text) == "other" for record in records)
    return Scored(units, values, groups, groups, dict.fromkeys(by_subtask, 1.0), others)


def _touchstone(records: Sequence[Record]) -> Scored:
    """The mean over all rounds that the judge answered readably, times 100: 100 to 1000."""
    units, values, by_category, reference = [], [], defaultdict(list), []
    left_out = 0
    for record in records:
        verdicts = record.verdicts or ()
        reference += [value for value in reference_scores(verdicts) if value is not None]
        for number, value in enumerate(model_scores(verdicts), start=1):
            if value is None:
                left_out += 1
                continue
            units.append((record.id, number))
            values.append(100 * value)
            for name in categories(record.group):
                by_category[name].append(100 * value)
    details = {
        "reference answers": 100 * fmean(reference) if reference else None,
        "rounds left out": left_out,
        "by category": {name: fmean(found) for name, found in sorted(by_category.items())},
    }
    unparsed = sum(not record.text.strip() for record in records)
    return Scored(units, values, [""] * len(units), [ALL] * len(units), {ALL: 1.0}, unparsed, details)


def _world(records: Sequence[Record], task: str) -> Scored:
    """The task's main metric, with all of its metrics by language beside the best constant answer's."""
    said = [parse_markup(record.answer) for record in records]
    truths = [from_json(record.truth) for record in records]
    if MAIN_METRIC[task] == "cider":
        values = caption_scores(said, truths)
    else:
        values = [score(task, [one], [truth])[MAIN_METRIC[task]] for one, truth in zip(said, truths, strict=True)]
    scored = _mean(records, values, sum(not record.answer.strip() for record in records))
    languages = {record.language: None for record in records}
    for language in (*languages, ALL):
        chosen = [i for i, record in enumerate(records) if language in (record.language, ALL)]
        scored.details.setdefault("languages", {})[language] = _beside_guessing(
            task, [said[i] for i in chosen], [truths[i] for i in chosen]
        )
    return scored


def _beside_guessing(task: str, said: list[Content], truths: list[Content]) -> dict[str, Any]:
    return {
        "samples": len(truths),
        "scores": _rounded(score(task, said, truths)),
        "best_constant": _rounded(best_constant(task, truths)),
    }


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


Scorer = Callable[[Sequence[Record]], Scored]
SCORERS: dict[str, Scorer] = {
    "cider": _captions,
    "vqa": partial(_score_each, of_one=_vqa),
    "anls": partial(_score_each, of_one=anls),
    "relaxed": lambda records: _mean_of_groups(_score_each(records, relaxed_match)),
    "exact": partial(_score_each, of_one=exact_answer),
    "gqa": partial(_score_each, of_one=lambda answer, truth: exact_answer(gqa_answer(answer), truth)),
    "iou50": _iou50,
    "choice": _choice,
    "choice_by_group": lambda records: _mean_of_groups(_choice(records)),
    "mme": _mme,
    "touchstone": _touchstone,
    **{f"world_{task}": partial(_world, task=task) for task in TASKS},
}
METRIC_NAMES = {
    "cider": "CIDEr",
    "vqa": "VQA score",
    "anls": "ANLS",
    "relaxed": "relaxed accuracy",
    "exact": "exact match",
    "gqa": "exact match",
    "iou50": "accuracy at IoU 0.5",
    "choice": "accuracy",
    "choice_by_group": "mean accuracy of subjects",
    "mme": "acc + acc+",
    "touchstone": "judge's score",
    **{f"world_{task}": MAIN_METRIC[task] for task in TASKS},
}


def _submit_vqa(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{"question_id": int(record.id), "answer": record.text.strip()} for record in records]


def _submit_vizwiz(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{"image": record.id, "answer": record.text.strip()} for record in records]


def _submit_docvqa(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{"questionId": int(record.id), "answer": record.text.strip()} for record in records]


def _submit_grit(records: Sequence[Record]) -> list[dict[str, Any]]:
    boxes = [answered_box(record.text, record.truth["width"], record.truth["height"]) for record in records]
    return [
        {"example_id": record.id, "confidence": 1.0, "bboxes": [[round(float(c)) for c in box]] if box.any() else []}
        for record, box in zip(records, boxes, strict=True)
    ]


# What a server that keeps the answers wants, where it scores.
SUBMISSIONS: dict[str, Callable[[Sequence[Record]], list[dict[str, Any]]]] = {
    "submit_vqa": _submit_vqa,
    "submit_vizwiz": _submit_vizwiz,
    "submit_docvqa": _submit_docvqa,
    "submit_grit": _submit_grit,
}
