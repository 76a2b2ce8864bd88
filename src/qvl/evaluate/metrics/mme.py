"""MME: two questions about each picture, one to be answered yes and one no.

Source: Fu et al. 2023 (arXiv 2306.13394) and calculation.py of its evaluation tool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()
COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
_LOOKED_AT = 4  # characters


@dataclass(frozen=True)
class Subtask:
    """Shares of questions, and of pictures with both questions, that were answered right; answers that were neither yes
    nor no, which count as wrong."""

    acc: float
    acc_plus: float
    others: int

    @property
    def score(self) -> float:
        """0 to 200."""
        return self.acc * 100 + self.acc_plus * 100


def yes_or_no(answer: str) -> str:
    """ "yes", "no" or "other", by the first four characters: "I think yes" is other, "not" and "know" are no."""
    text = answer.lower()
    if text in ("yes", "no"):
        return text
    start = text[:_LOOKED_AT]
    return next((word for word in ("yes", "no") if word in start), "other")


def subtask(answers: Sequence[str], truths: Sequence[str]) -> Subtask:
    """Answers in the order of the file, in which two lines after each other belong to a picture; truths: Yes or No."""
    said = [yes_or_no(answer) for answer in answers]
    right = [a == truth.lower() for a, truth in zip(said, truths, strict=True)]
    pairs = list(zip(right[::2], right[1::2], strict=True))
    return Subtask(sum(right) / len(right), sum(map(all, pairs)) / len(pairs), said.count("other"))


def totals(subtasks: Mapping[str, Subtask]) -> dict[str, float]:
    """perception (at most 2000) and cognition (at most 800), of the subtasks that are there."""
    return {
        kind: sum(subtasks[name].score for name in names if name in subtasks)
        for kind, names in (("perception", PERCEPTION), ("cognition", COGNITION))
    }
