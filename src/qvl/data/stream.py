"""Which samples come together: a weighted mixture of tasks, packed into rows, dealt to batches of rows.

A stream is planned in stretches of some tens of rows: samples are drawn by weight, rows are filled task by task (the
samples of a row share their task, as in the paper), and rows are dealt so that batches hold about as many pictures
each. A row that is not full waits for the next stretch, where it is filled up first and then leaves in any case. All of
it is a function of the seed and the shards: the state is a few integers and the samples of the waiting rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from qvl.data.packing import deal, pack
from qvl.data.pools import Part, Pool, share
from qvl.data.sample import Sample
from qvl.errors import DataError
from qvl.text.render import Rendered, render
from qvl.text.tokenizer import Tokenizer

STRETCH_ROWS = 64  # rows that are planned together, about: more fill no better
OPEN_ROWS = 8  # and so many more, the emptiest of which wait: without them the last rows take what the others left
BUFFER_SAMPLES = 2048  # that the pools of all streams keep in memory, shared out by weight; a part at least

Draw = tuple[str, int]  # task, and its number in the task's pool


@dataclass(frozen=True)
class Drawn:
    """A sample of the stream, rendered."""

    draw: Draw
    sample: Sample
    rendered: Rendered

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.rendered.input_ids)

    @property
    def num_images(self) -> int:
        """Pictures that are shown."""
        return len(self.rendered.image_indices)


Row = list[Drawn]


@dataclass(frozen=True)
class StreamConfig:
    """What decides the order. packing False: a sample a row."""

    mixture: Mapping[str, float]  # task -> weight in samples
    batch_rows: int
    row_length: int
    packing: bool
    num_image_tokens: int
    seed: int


@dataclass(frozen=True)
class StreamState:
    """Where a stream stands: as it was before the stretch that is being read, and how many batches of it were."""

    stretch: int = 0
    position: int = 0  # samples drawn
    numbers: dict[str, int] = field(default_factory=dict)  # task -> samples drawn from its pool
    waiting: list[list[Draw]] = field(default_factory=list)  # rows that are not full yet
    left_out: int = 0  # samples longer than a row
    cut: int = 0  # dialogues that lost their last turns
    batches_read: int = 0
    lost: tuple[int, int] = (0, 0)  # left out and cut with what the stretch that is being read adds: for reports alone

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StreamState":
        """What as_dict gave, also after a way through JSON."""
        rows = [[(task, number) for task, number in row] for row in values["waiting"]]
        return cls(**{**values, "waiting": rows})


@dataclass(frozen=True)
class Stretch:
    """Batches of rows planned together, the rows that wait, and the state that follows."""

    batches: list[list[Row]]
    waiting: list[Row]
    after: StreamState


class Stream:
    """One of the streams that share a mixture's samples."""

    def __init__(
        self, parts: Mapping[str, list[Part]], tokenizer: Tokenizer, config: StreamConfig, number: int, streams: int
    ) -> None:
        """parts: of each task, of which this stream takes its share. DataError where there is not one for each."""
        self.config, self.tokenizer, self.number = config, tokenizer, number
        self.tasks = sorted(parts)
        weights = np.array([config.mixture[task] for task in self.tasks])
        self.shares = weights / weights.sum()
        self.pools: dict[str, Pool] = {}
        window = BUFFER_SAMPLES // streams
        for index, (task, fraction) in enumerate(zip(self.tasks, self.shares, strict=True)):
            seed = (config.seed, number, 1 + index)
            self.pools[task] = Pool(share(parts[task], number, streams), int(fraction * window), seed)
        self.state = StreamState()

    def batches(self, planner: Executor) -> Iterator[tuple[list[Row], StreamState]]:
        """Endless batches of rows, each with the state that follows it; the planner is one stretch ahead."""
        begin = self.state
        stretch = self.plan(begin, self._waiting(begin))
        while True:
            ahead = planner.submit(self.plan, stretch.after, stretch.waiting)
            for done in range(begin.batches_read, len(stretch.batches)):
                lost = (stretch.after.left_out, stretch.after.cut)
                after = StreamState(**{**vars(begin), "batches_read": done + 1, "lost": lost})
                yield stretch.batches[done], after if done + 1 < len(stretch.batches) else stretch.after
            begin, stretch = stretch.after, ahead.result()

    def _waiting(self, state: StreamState) -> list[Row]:
        """The rows that wait, read again in their order in the pools: each window of those is entered once."""
        draws = sorted(draw for row in state.waiting for draw in row)
        again = {draw: self.drawn(draw) for draw in draws}
        return [[again[draw] for draw in row] for row in state.waiting]

    def plan(self, state: StreamState, waiting: list[Row]) -> Stretch:
        """The stretch that follows a state and its waiting rows."""
        draws = _Draws(self, state)
        batch_rows = self.config.batch_rows
        wanted = batch_rows * -(-STRETCH_ROWS // batch_rows)
        if self.config.packing:
            rows, kept = self._packed(draws, waiting, wanted)
        else:
            rows, kept = [[draws.next()] for _ in range(wanted)], []
        held = [[drawn.draw for drawn in row] for row in kept]
        lost = (draws.left_out, draws.cut)
        after = StreamState(state.stretch + 1, draws.position, draws.numbers, held, *lost, lost=lost)
        return Stretch(self._dealt(rows, state.stretch), kept, after)

    def _packed(self, draws: "_Draws", waiting: list[Row], wanted: int) -> tuple[list[Row], list[Row]]:
        """Draw what fills the rows wanted and those that stay open; (rows to read, rows that wait)."""
        room = (wanted + OPEN_ROWS + len(self.tasks)) * self.config.row_length
        room -= sum(drawn.length for row in waiting for drawn in row)
        fresh: list[Drawn] = []
        while room > 0:
            fresh.append(draws.next())
            room -= fresh[-1].length
        old: list[Row] = []
        new: list[Row] = []
        for task in self.tasks:
            started = [row for row in waiting if row[0].draw[0] == task]
            samples = [d for row in started for d in row] + [d for d in fresh if d.draw[0] == task]
            bounds = np.cumsum([0, *map(len, started)])
            places = [range(a, b) for a, b in pairwise(bounds.tolist())]
            rows = pack([d.length for d in samples], self.config.row_length, places)
            filled = [[samples[i] for i in row] for row in rows]
            old += filled[: len(started)]
            new += filled[len(started) :]
        new.sort(key=lambda row: -sum(d.length for d in row))
        step = self.config.batch_rows  # all that waited leave, as far as whole batches go
        count = max(wanted, min(len(old) + -len(old) % step, (len(old) + len(new)) // step * step))
        return (old + new)[:count], (old + new)[count:]

    def _dealt(self, rows: list[Row], stretch: int) -> list[list[Row]]:
        """Batches in random order with about as many pictures each."""
        random = np.random.default_rng((self.config.seed, self.number, 0, 1, stretch))
        rows = [rows[i] for i in random.permutation(len(rows))]
        dealt = deal([sum(d.num_images for d in row) for row in rows], self.config.batch_rows)
        return [[rows[i] for i in random.permutation(dealt[k])] for k in random.permutation(len(dealt))]

    def drawn(self, draw: Draw) -> Drawn:
        """A sample that was drawn before. DataError when it does not fit any more."""
        if drawn := self.render(draw):
            return drawn
        raise DataError(f"sample {draw[1]} of task {draw[0]!r} is not what it was when the state was saved")

    def render(self, draw: Draw) -> Drawn | None:
        """A sample of the pools; None when not even its first exchange fits a row."""
        sample = self.pools[draw[0]].sample(draw[1])
        turns = [(turn.role, turn.content) for turn in sample.turns]
        rendered = render(
            turns, sample.task, self.tokenizer, self.config.num_image_tokens, max_length=self.config.row_length
        )
        if rendered is None:
            return None
        if missing := [index for index in rendered.image_indices if index >= len(sample.images)]:
            shows = f"shows image {missing[0]} of {len(sample.images)}"
            raise DataError(f"sample {sample.id!r}: {shows}; `qvl data lint` names all such samples")
        return Drawn(draw, sample, rendered)


class _Draws:
    """The samples of the mixture from a state on, and the counts so far."""

    def __init__(self, stream: Stream, state: StreamState) -> None:
        self.stream, self.config = stream, stream.config
        self.position, self.numbers = state.position, dict(state.numbers)
        self.left_out, self.cut = state.left_out, state.cut
        self.misses: Counter[str] = Counter()  # samples in a row that did not fit

    def next(self) -> Drawn:
        """The next sample that fits a row. DataError when none of a task does."""
        while True:
            random = np.random.default_rng((self.config.seed, self.stream.number, 0, 0, self.position))
            task = self.stream.tasks[int(random.choice(len(self.stream.tasks), p=self.stream.shares))]
            self.position += 1
            number = self.numbers.get(task, 0)
            self.numbers[task] = number + 1
            if drawn := self.stream.render((task, number)):
                self.misses[task] = 0
                self.cut += drawn.rendered.dropped_turns > 0
                return drawn
            self.left_out += 1
            self.misses[task] += 1
            if self.misses[task] == 2 * len(self.stream.pools[task]):  # at least one epoch
                raise DataError(f"no sample of task {task!r} fits a row of {self.config.row_length} tokens")
