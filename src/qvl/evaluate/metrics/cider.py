"""CIDEr-D of captions. Source: Vedantam et al. 2015 (arXiv 1411.5726) and the scorer that came with it.

Every step is one operation on arrays over the n-grams of all captions, so that five thousand pictures take a second.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

MAX_N = 4
SIGMA = 6.0
_LARGEST = 2**62
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
    pictures = np.repeat(np.arange(total), [len(group) for group in references])  # of each reference
    texts = [*predictions, *chain.from_iterable(references)]
    words, text_of = _numbered(texts)
    with ThreadPoolExecutor(MAX_N) as pool:  # sorting lets other threads work
        parts = [
            pool.submit(_of_one_length, keys, text_of[places], pictures, total)
            for keys, places in _ngrams(words, text_of)
        ]
    similarity = np.sum([part.result() for part in parts], axis=0)
    bigrams = np.maximum(np.array([len(text) for text in texts]) - 1, 0)  # they stand for the length
    apart = bigrams[:total][pictures] - bigrams[total:]
    similarity *= np.exp(-(apart**2) / (2 * SIGMA**2)) / MAX_N
    means = np.bincount(pictures, similarity, total) / np.bincount(pictures, minlength=total)
    return list((10.0 * means).tolist())


def _numbered(texts: Sequence[Sequence[str]]) -> tuple[Ints, Ints]:
    """All words as numbers, one after the other, and the text of each."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    words = np.fromiter(map(numbers.__getitem__, chain.from_iterable(texts)), np.int64)
    return words, np.repeat(np.arange(len(texts)), [len(text) for text in texts])


def _ngrams(words: Ints, text_of: Ints) -> Iterator[tuple[Ints, Ints]]:
    """For n from 1 to 4 a number for the n-gram at each place, equal for equal ones, and the places."""
    spread = int(words.max(initial=0)) + 1
    keys, places, largest = words, np.arange(len(words)), spread
    yield keys, places
    for n in range(2, MAX_N + 1):
        within = places + n <= len(words)
        keys, places = keys[within], places[within]
        within = text_of[places] == text_of[places + n - 1]
        keys, places = keys[within], places[within]
        if largest >= _LARGEST // spread:
            keys = _compact(keys)
            largest = len(keys)
        keys = keys * spread + words[places + n - 1]
        largest *= spread
        yield keys, places


def _compact(keys: Ints) -> Ints:
    """Numbers from 0 on, equal ones for equal keys."""
    ordered = np.sort(keys)
    return np.searchsorted(ordered[np.diff(ordered, prepend=-1) != 0], keys)


def _of_one_length(keys: Ints, texts: Ints, pictures: Ints, total: int) -> Floats:
    """The similarity of each reference to its prediction by n-grams of one length, from 0 to 1."""
    size = total + len(pictures)
    if int(keys.max(initial=0)) >= _LARGEST // size:
        keys = _compact(keys)
    # Sorted by n-gram, then text: predictions first, then references in the order of their pictures.
    codes, counts = np.unique(keys * size + texts, return_counts=True)
    ngram, text = np.divmod(codes, size)
    number = np.cumsum(np.diff(ngram, prepend=ngram[:1]) != 0)
    said = text < total
    picture = pictures[text[~said] - total]
    wanted = number[~said] * total + picture
    frequency = np.bincount(number[~said][np.diff(wanted, prepend=-1) != 0], minlength=len(codes))
    values = counts * (np.log(total) - np.log(np.maximum(1, frequency[number])))
    norms = np.sqrt(np.bincount(text, values**2, size))
    known = number[said] * total + text[said]
    shared = np.zeros(len(pictures))
    if len(known):
        # What each reference shares with its prediction: the prediction's value of the same n-gram, at most its own.
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        both = known[place] == wanted
        own, other = values[~said][both], values[said][place[both]]
        shared += np.bincount(text[~said][both] - total, np.minimum(own, other) * own, len(pictures))
    scale = norms[:total][pictures] * norms[total:]
    return np.divide(shared, scale, out=np.zeros(len(pictures)), where=scale > 0)
