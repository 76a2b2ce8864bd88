"""What a study measures, and its two numbers of a loss curve."""

from dataclasses import dataclass, field
from statistics import fmean

START, END = 0.1, 0.2  # shares of the steps: the first ones, and the last ones


@dataclass(frozen=True)
class Seconds:
    """Of one training step, round by round; in a round every variant makes one step."""

    wall: list[float]
    cpu: list[float]  # of all threads of the process


@dataclass(frozen=True)
class Results:
    """variant -> its curves, a list of losses for each seed; variant -> seconds, where a study asks for them.

    The n-th curve of every variant has the same seed: the same start, and the same samples in the same order.
    """

    losses: dict[str, list[list[float]]]
    seconds: dict[str, Seconds] = field(default_factory=dict)

    def starts(self, variant: str) -> list[float]:
        """Mean loss of the first steps, seed by seed."""
        return [fmean(curve[: _share(START, curve)]) for curve in self.losses[variant]]

    def ends(self, variant: str) -> list[float]:
        """Mean loss of the last steps, seed by seed."""
        return [fmean(curve[-_share(END, curve) :]) for curve in self.losses[variant]]


def _share(share: float, curve: list[float]) -> int:
    return max(1, round(share * len(curve)))
