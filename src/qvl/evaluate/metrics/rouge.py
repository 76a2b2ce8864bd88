"""ROUGE-L of captions: the longest common subsequence of words. Source: Lin 2004; pycocoevalcap's rouge."""

from collections.abc import Sequence

BETA = 1.2


def rouge_l(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """0 to 1: the best precision and the best recall over the references, each maybe of another, recall counting more.
    Nothing said of nothing is right."""
    said = list(prediction) or [""]
    wanted = [list(reference) or [""] for reference in references]
    common = [_longest_common(reference, said) for reference in wanted]
    precision = max(common) / len(said)
    recall = max(count / len(reference) for count, reference in zip(common, wanted, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        corner = 0
        for j, y in enumerate(b, start=1):
            corner, row[j] = row[j], corner + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
