"""CIDEr-D of captions. Source: Vedantam et al. 2015 (arXiv 1411.5726) and the scorer that came with it.

Every step is one operation on arrays over the n-grams of all captions, so that five thousand pictures take a second.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_N = 4
SIGMA = 6.0
_TOKEN = re.compile(r"[\u4e00-\u9fff]|[^\W_]+")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def tokenise(caption: str) -> list[str]:
    """Lower-case words; each Chinese character is a word; punctuation goes."""
    return _TOKEN.findall(caption.lower())


def cider(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """CIDEr-D of each prediction, about 0 to 10, given the words of predictions and of the references of each; document
    frequencies come from these references, so that one picture alone has 0."""
    total = len(references)
    if len(predictions) != total:
        raise ValueError(f"{len(predictions)} predictions for the references of {total}")
    if not total:
        return []
    groups = np.repeat(np.arange(total), [len(group) for group in references])  # of each reference, its picture
    texts = [*predictions, *(reference for group in references for reference in group)]
    words, captions = _numbered(texts)
    lengths = np.maximum(np.bincount(captions, minlength=len(texts)) - 1, 0)  # in bigrams, as the scorer has it
    apart = lengths[:total][groups] - lengths[total:]
    penalty = np.exp(-(apart**2) / (2 * SIGMA**2))
    similarity = np.zeros(len(groups))
    keys, starts = words, np.arange(len(words))
    for n in range(1, MAX_N + 1):
        if n > 1:  # the n-grams that go on by a word of the same caption
            going = starts + n - 1 < len(words)
            starts, keys = starts[going], keys[going]
            same = captions[starts + n - 1] == captions[starts]
            starts, keys = starts[same], keys[same]
            keys = _compact(keys) * (int(words.max(initial=0)) + 1) + words[starts + n - 1]
        similarity += _of_n(_compact(keys), captions[starts], groups, total)
    means = np.bincount(groups, similarity * penalty / MAX_N, total) / np.bincount(groups, minlength=total)
    return list((10.0 * means).tolist())


def _numbered(texts: Sequence[Sequence[str]]) -> tuple[Ints, Ints]:
    """All words as numbers, one after the other, and the text of each."""
    numbers: dict[str, int] = {}
    words = [numbers.setdefault(word, len(numbers)) for text in texts for word in text]
    return np.array(words, np.int64), np.repeat(np.arange(len(texts)), [len(text) for text in texts])


def _compact(keys: Ints) -> Ints:
    """Numbers from 0 on, equal ones for equal keys."""
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def _of_n(keys: Ints, captions: Ints, groups: Ints, total: int) -> Floats:
    """The similarity of each reference to its prediction by n-grams of one length, from 0 to 1."""
    size = int(keys.max(initial=0)) + 1
    pairs, counts = np.unique(captions * size + keys, return_counts=True)  # sorted by caption, then n-gram
    caption, key = pairs // size, pairs % size
    said = caption < total
    picture = groups[caption[~said] - total]
    frequency = np.bincount(np.unique(picture * size + key[~said]) % size, minlength=size)
    values = counts * (np.log(total) - np.log(np.maximum(1, frequency[key])))
    norms = np.sqrt(np.bincount(caption, values**2, total + len(groups)))
    # What each reference shares with its prediction: the prediction's value of the same n-gram, at most its own.
    wanted = picture * size + key[~said]
    known = pairs[said]
    if not len(known) or not len(wanted):
        return np.zeros(len(groups))
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    both = known[place] == wanted
    own, other = values[~said][both], values[said][place[both]]
    shared = np.bincount(caption[~said][both] - total, np.minimum(own, other) * own, len(groups))
    scale = norms[:total][groups] * norms[total:]
    return np.divide(shared, scale, out=np.zeros(len(groups)), where=scale > 0)
