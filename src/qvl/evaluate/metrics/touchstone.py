"""TouchStone: what a judge says of two answers, and the mean of it.

Source: Bai et al. 2023 (arXiv 2308.16890) and eval.py of its repository. In the first round the reference answer comes
first, in the second the model's.
"""

from collections.abc import Callable, Sequence

TRIES = 5  # replies asked for until one can be read
ROUNDS = 2
Verdict = tuple[float, float]  # of the first and the second assistant


def read_verdict(reply: str | None) -> Verdict | None:
    """Two numbers with one space between them, on the first line; None for anything else."""
    if reply is None:
        return None
    cells = reply.strip().split("\n")[0].split(" ")
    try:
        first, second = map(float, cells)
    except ValueError:
        return None
    return first, second


def until_readable(ask: Callable[[], str | None]) -> tuple[Verdict | None, list[str | None]]:
    """The first verdict among at most TRIES replies, None where the round has to be left out; and the replies."""
    replies: list[str | None] = []
    while len(replies) < TRIES:
        replies.append(ask())
        if (verdict := read_verdict(replies[-1])) is not None:
            return verdict, replies
    return None, replies


def model_scores(verdicts: Sequence[Verdict | None]) -> list[float | None]:
    """The model's own score in each of the rounds."""
    return [None if verdict is None else verdict[1 - number] for number, verdict in enumerate(verdicts)]


def reference_scores(verdicts: Sequence[Verdict | None]) -> list[float | None]:
    """The reference answer's in each of the rounds."""
    return [None if verdict is None else verdict[number] for number, verdict in enumerate(verdicts)]


def categories(text: str) -> list[str]:
    """A question may belong to several; spaces around a comma stay, as there."""
    return text.split(",")
