"""The VQA score: how many of the people asked gave the answer. VQAv2, OKVQA, TextVQA, VizWiz.

Source: Goyal et al. 2017 (arXiv 1612.00837) and vqa_eval.py of the published code, whose habits are kept, as published
numbers depend on them: an answer by people has its punctuation processed, and that only where not all gave the same,
but it is not lower-cased and keeps its articles; so some of them can't be matched.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

AGREED = 3  # so many others who gave the answer make it wholly right
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ANY = re.compile("[" + re.escape(_PUNCTUATION) + ".]")
_DIGITS_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32  # at most, of a text: the published code hands a flag to where the count goes
_NUMBERS = "none zero one two three four five six seven eight nine ten".split()
_DIGITS = {word: str(max(0, number - 1)) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()


def _without_one_apostrophe(words: Iterable[str]) -> dict[str, str]:
    return {word[:i] + word[i + 1 :]: word for word in words for i, c in enumerate(word) if c == "'"}


_CONTRACTIONS = {**_without_one_apostrophe(_CONTRACTED), "somebody'd": "somebodyd"}


@lru_cache(maxsize=1 << 18)
def process_punctuation(text: str) -> str:
    """A mark goes where it touches a space, or anywhere in a text with a comma between digits; else a space comes in
    its place. A period goes but before a digit."""
    if not _ANY.search(text):
        return text
    deletes_all = _DIGITS_COMMA.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        if mark in text:
            out = out.replace(mark, "" if deletes_all or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", out, count=_PERIODS)


def process_words(text: str) -> str:
    """Lower case, numbers up to ten as digits, no articles, apostrophes put back, spaces joined."""
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 18)
def normalise_prediction(text: str) -> str:
    """What is compared with people's answers."""
    return process_words(process_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


def vqa_score(prediction: str, answers: Sequence[Mapping[str, Any]]) -> float:
    """0 to 1: the mean, over each of the answers left out, of min(1, others that match / 3).

    answers: annotations with "answer" and usually "answer_id". Equal ones, all fields alike, are left out together, as
    the published code has it: keep the ids.
    """
    said = normalise_prediction(prediction)
    texts = [str(answer["answer"]) for answer in answers]
    if len(set(texts)) > 1:
        texts = [process_punctuation(text) for text in texts]
    matches = texts.count(said)
    if not matches:
        return 0.0
    if len({answer.get("answer_id") for answer in answers}) == len(answers):
        left_out = [text == said for text in texts]
        total = sum(min(1.0, (matches - out) / AGREED) for out in left_out)
    else:
        processed = [{**answer, "answer": text} for answer, text in zip(answers, texts, strict=True)]
        total = sum(
            min(1.0, sum(other["answer"] == said for other in processed if other != one) / AGREED) for one in processed
        )
    return total / len(texts)


def percent(scores: Sequence[float]) -> float:
    """Their mean as it is published: 0 to 100, two places."""
    return round(100 * sum(scores) / len(scores), 2)
