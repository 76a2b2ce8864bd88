"""Does what was measured agree with what the paper says? Decided from the numbers, with their spread."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

AGREES, CONTRADICTS, UNDECIDED = "agrees", "contradicts", "undecided"
# Student's t: 95 % of the values lie within +-t, by degrees of freedom from 1; the last serves for more.
STUDENT_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class Claim:
    """One thing that the paper says, as differences that are above zero where it holds: one of each seed or round."""

    says: str
    measured: str  # what the differences are of
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.differences)

    @property
    def half_width(self) -> float:
        """Of the 95 % confidence interval around the mean; infinite for a single difference."""
        freedom = len(self.differences) - 1
        if freedom == 0:
            return math.inf
        t = STUDENT_95[min(freedom, len(STUDENT_95)) - 1]
        return t * stdev(self.differences) / math.sqrt(len(self.differences))

    @property
    def outcome(self) -> str:
        """Undecided where zero lies within the confidence interval."""
        if abs(self.mean) <= self.half_width:
            return UNDECIDED
        return AGREES if self.mean > 0 else CONTRADICTS

    def sentence(self) -> str:
        """The claim, the outcome and its numbers."""
        number = len(self.differences)
        spread = f"± {self.half_width:.3f}, 95 % interval of {number}" if number > 1 else "a single one"
        return f"{self.says}: {self.outcome} ({self.measured}: {self.mean:+.3f}, {spread})."


def differences(higher: Sequence[float], lower: Sequence[float]) -> tuple[float, ...]:
    """Pair by pair."""
    return tuple(a - b for a, b in zip(higher, lower, strict=True))


def verdict(claims: Sequence[Claim]) -> str:
    """All claims in one sentence."""
    counts = Counter(claim.outcome for claim in claims)
    total = len(claims)
    if counts[AGREES] == total:
        return f"The direction agrees with the paper in all {total} points."
    outcomes = ((AGREES, "agree"), (CONTRADICTS, "go the other way"), (UNDECIDED, "stay undecided within the spread"))
    parts = [f"{counts[outcome]} {does}" for outcome, does in outcomes if counts[outcome]]
    return f"Of the paper's {total} points {', '.join(parts)}."
