"""CIDEr-D of captions. Source: Vedantam et al. 2015 (arXiv 1411.5726) and the scorer that came with it."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

MAX_N = 4
SIGMA = 6.0
_TOKEN = re.compile(r"[\u4e00-\u9fff]|[^\W_]+")

Ngram = tuple[str, ...]


def tokenise(caption: str) -> list[str]:
    """Lower-case words; each Chinese character is a word; punctuation goes."""
    return _TOKEN.findall(caption.lower())


def cider(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """CIDEr-D of each prediction, about 0 to 10, given the words of predictions and of the references of each; document
    frequencies come from these references, so that one picture alone has 0."""
    counted = [[_ngrams(words) for words in group] for group in references]
    frequency: Counter[Ngram] = Counter()
    for group in counted:
        frequency.update({ngram for counts in group for ngram in counts})
    log_total = math.log(max(len(references), 1))
    scores = []
    for prediction, group in zip(predictions, counted, strict=True):
        vectors = _vectors(_ngrams(prediction), frequency, log_total)
        each = [_similarity(vectors, _vectors(counts, frequency, log_total)) for counts in group]
        scores.append(10.0 * sum(each) / len(each))
    return scores


def _ngrams(tokens: Sequence[str]) -> Counter[Ngram]:
    return Counter(tuple(tokens[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(tokens) - n + 1))


def _vectors(
    counts: Counter[Ngram], frequency: Counter[Ngram], log_total: float
) -> tuple[list[dict[Ngram, float]], list[float], int]:
    """TF-IDF of each n, its norm, and the number of bigrams, which stands for the caption's length."""
    vectors: list[dict[Ngram, float]] = [defaultdict(float) for _ in range(MAX_N)]
    for ngram, count in counts.items():
        vectors[len(ngram) - 1][ngram] = count * (log_total - math.log(max(1.0, frequency[ngram])))
    norms = [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]
    return vectors, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _similarity(
    hypothesis: tuple[list[dict[Ngram, float]], list[float], int],
    reference: tuple[list[dict[Ngram, float]], list[float], int],
) -> float:
    (hyp, hyp_norms, hyp_length), (ref, ref_norms, ref_length) = hypothesis, reference
    penalty = math.exp(-((hyp_length - ref_length) ** 2) / (2 * SIGMA**2))
    total = 0.0
    for n in range(MAX_N):
        shared = sum(min(value, ref[n][ngram]) * ref[n][ngram] for ngram, value in hyp[n].items() if ngram in ref[n])
        if hyp_norms[n] and ref_norms[n]:
            total += shared / (hyp_norms[n] * ref_norms[n]) * penalty
    return total / MAX_N
