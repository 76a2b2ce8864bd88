"""A training step's batches: which samples lie in which row, what of them carries loss, and what the rows waste."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from qvl.data.sample import Sample
from qvl.data.stream import Drawn
from qvl.errors import UsageError
from qvl.evaluate.report import read_log
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.train.telemetry import LOG_NAME
from qvl.train.trace import TracedStep, recipe_of, traced_step


@dataclass(frozen=True)
class Piece:
    """A sample in its row. picture: places of its pictures, never with loss."""

    sample: Sample
    length: int
    picture: int
    supervised: int

    @property
    def source(self) -> str:
        """Where it comes from, as far as its shard tells."""
        return f"{self.sample.provenance.get('source', '?')}: {self.sample.provenance.get('row', '?')}"


@dataclass(frozen=True)
class BatchRow:
    """batch: its number within the step. width: places that the batch gives every row, padding among them."""

    batch: int
    pieces: list[Piece]
    width: int

    @property
    def tokens(self) -> int:
        """Places that are filled."""
        return sum(piece.length for piece in self.pieces)

    @property
    def supervised(self) -> int:
        """Places with loss."""
        return sum(piece.supervised for piece in self.pieces)

    @property
    def wasted(self) -> int:
        """Places of padding."""
        return self.width - self.tokens


@dataclass(frozen=True)
class StepView:
    """loss: what the log has of that step, if it got so far."""

    traced: TracedStep
    stage_dir: Path
    step: int
    rows: list[BatchRow]
    loss: float | None

    def by_task(self) -> dict[str, Counter[str]]:
        """task -> samples, tokens, supervised; most tokens with loss first."""
        counts: dict[str, Counter[str]] = {}
        for row in self.rows:
            for piece in row.pieces:
                counter = counts.setdefault(piece.sample.task, Counter())
                counter.update(samples=1, tokens=piece.length, supervised=piece.supervised)
        return dict(sorted(counts.items(), key=lambda item: -item[1]["supervised"]))


def step_view(stage_dir: Path, step: int) -> StepView:
    """The step's rows, from the recipe and the shards; errors of traced_step."""
    traced = traced_step(stage_dir, step)
    rows = []
    for number, batch in enumerate(traced.batches, 1):
        pieces = [[_piece(drawn, traced) for drawn in row] for row in batch]
        width = max(sum(piece.length for piece in row) for row in pieces)
        rows += [BatchRow(number, row, width) for row in pieces]
    logged = {record["step"]: record["loss"] for record in read_log(stage_dir / LOG_NAME)}
    return StepView(traced, stage_dir, step, rows, logged.get(step))


def last_step(stage_dir: Path) -> int:
    """The newest step of a stage's log. UsageError before the first, or for a folder without a stage."""
    recipe_of(stage_dir)
    log = read_log(stage_dir / LOG_NAME)
    if not log:
        raise UsageError(f"{stage_dir}: no step in its {LOG_NAME} yet; give --step")
    step: int = log[-1]["step"]
    return step


def _piece(drawn: Drawn, traced: TracedStep) -> Piece:
    special = traced.tokenizer.special
    rendered = drawn.rendered
    supervised = sum(label != IGNORE_INDEX for label in rendered.labels[1:])  # the first is nobody's next token
    return Piece(drawn.sample, drawn.length, rendered.input_ids.count(special.img_pad), supervised)
