"""Many requests at once: prompts are read as rows become free, and every running row gets a token at each step.

Rows of the cache: first those that run, then those whose prompt is being read, then free ones. A free row keeps what it
held: a prompt that begins alike takes it over, or copies it from a row that runs.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qvl.errors import TextError, UsageError
from qvl.generate.decoding import decode, new_cache, prefill
from qvl.generate.features import ImageFeatures, content_hash
from qvl.generate.recorded import RecordedDecoder
from qvl.generate.request import Request, Step
from qvl.generate.sampling import Draw, choose, seen_tokens
from qvl.model.qwen_vl import QwenVL

MAX_READ = 2048  # tokens of prompts read between two tokens of the rows that run
MIN_SHARED = 32  # tokens of a prefix that are worth taking over: rows that begin alike are read together
FEATURE_BYTES = 256 * 2**20


@dataclass(eq=False)
class _Row:
    """A request under way."""

    id: int
    request: Request
    hashes: list[bytes]
    key: list[int]  # input_ids, but pictures are told apart
    generator: torch.Generator | None
    seen: Tensor | None  # (V,): what the repetition penalty is about
    unread: Tensor | None = None  # (T, D)
    answer: list[int] = field(default_factory=list)


class Engine:
    """Continuous batching over one model, which stays as it is. Belongs to one thread.

    max_rows: requests that run at once. max_tokens: of prompt and answer together, at most (the model's seq_length).
    """

    def __init__(self, model: QwenVL, *, max_rows: int = 16, max_tokens: int | None = None) -> None:
        self.model = model
        self.max_rows = max_rows
        self.max_tokens = max_tokens or model.config.language.seq_length
        self.features = ImageFeatures(model, FEATURE_BYTES)
        self.shared_tokens = 0  # of prompts, that were not read again
        self._cache = new_cache(model, max_rows, self.max_tokens)
        self._decoder = RecordedDecoder(model, self._cache) if self._cache.keys.is_cuda else None
        self._held: list[list[int]] = [[] for _ in range(max_rows)]  # what each row's places stand for
        self._used = [0] * max_rows  # when each row was freed
        self._waiting: deque[_Row] = deque()
        self._reading: list[_Row] = []
        self._running: list[_Row] = []
        self._count = self._clock = 0

    @property
    def num_running(self) -> int:
        """Requests that have a row."""
        return len(self._running) + len(self._reading)

    @property
    def num_waiting(self) -> int:
        """Requests that have none yet."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._reading or self._running)

    def add(self, request: Request) -> int:
        """Queue a request; its id. UsageError where it can't fit, TextError where ids and images don't."""
        self._check(request)
        hashes = [content_hash(image) for image in request.images]
        self._count += 1
        key = self._key(request, hashes)
        self._waiting.append(_Row(self._count, request, hashes, key, self._generator(request), self._seen(request)))
        return self._count

    def cancel(self, request_id: int) -> None:
        """Forget a request, wherever it is; its row is free at once."""
        self._waiting = deque(row for row in self._waiting if row.id != request_id)
        for row in [*self._running, *self._reading]:
            if row.id == request_id:
                self._free(row)

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """A token for every row that runs, then prompts are read, whose first token comes with them."""
        return [*self._decode(), *self._read()]

    def run(self, requests: Sequence[Request]) -> list[list[int]]:
        """Every request's answer, in their order. For an engine with no other work."""
        ids = [self.add(request) for request in requests]
        answers: dict[int, list[int]] = {one: [] for one in ids}
        while self.has_work:
            for step in self.step():
                if step.token_id is not None:
                    answers[step.request_id].append(step.token_id)
        return [answers[one] for one in ids]

    def stream(self, request: Request) -> Iterator[Step]:
        """The steps of one request as they come; leaving early frees its row. For an engine with no other work."""
        request_id = self.add(request)
        try:
            while self.has_work:
                yield from self.step()
        finally:
            self.cancel(request_id)

    def _check(self, request: Request) -> None:
        ids, config = list(request.input_ids), self.model.config
        if len(ids) + request.max_new_tokens > self.max_tokens:
            raise UsageError(
                f"a prompt of {len(ids)} tokens and max_new_tokens = {request.max_new_tokens} "
                f"do not fit {self.max_tokens} tokens; shorten one of them"
            )
        if not 0 <= min(ids) <= max(ids) < config.language.vocab_size:
            raise TextError(f"input_ids reach from {min(ids)} to {max(ids)}, not 0 to {config.language.vocab_size - 1}")
        size, queries = config.vision.image_size, config.vision.num_queries
        starts = [place for place, token in enumerate(ids) if token == config.image_start_id]
        if len(starts) != len(request.images):
            raise TextError(f"input_ids hold {len(starts)} image spans, but there are {len(request.images)} images")
        if any(ids[start + queries + 1 : start + queries + 2] != [config.image_end_id] for start in starts):
            raise TextError(f"an image span in input_ids is cut or is not {queries} places long")
        if wrong := [tuple(image.shape) for image in request.images if image.shape != (3, size, size)]:
            raise UsageError(f"an image of shape {wrong[0]}: pixel_values must be (3, {size}, {size})")

    def _key(self, request: Request, hashes: list[bytes]) -> list[int]:
        """input_ids with numbers below 0 where a picture stands, other ones for each picture."""
        key, config = list(request.input_ids), self.model.config
        starts = [place for place, token in enumerate(key) if token == config.image_start_id]
        for start, content in zip(starts, hashes, strict=True):
            number = int.from_bytes(content[:8], "big")
            queries = config.vision.num_queries
            key[start + 1 : start + 1 + queries] = [-1 - number - place for place in range(queries)]
        return key

    def _generator(self, request: Request) -> torch.Generator | None:
        if request.sampling.temperature == 0:
            return None
        generator = torch.Generator(self._cache.keys.device)
        if request.seed is None:
            generator.seed()
        else:
            generator.manual_seed(request.seed)
        return generator

    def _seen(self, request: Request) -> Tensor | None:
        if request.sampling.repetition_penalty == 1:
            return None
        return seen_tokens(request.input_ids, self.model.config.language.vocab_size).to(self._cache.keys.device)

    def _decode(self) -> list[Step]:
        if not self._running:
            return []
        tokens = [row.answer[-1] for row in self._running]
        logits = self._decoder(tokens) if self._decoder else decode(self.model, tokens, self._cache)
        for held, token in zip(self._held, tokens, strict=False):
            held.append(token)
        return self._choose(list(self._running), logits)

    def _read(self) -> list[Step]:
        """Of the prompts that have a row, as many tokens as are read at a time."""
        self._admit()
        if not self._reading:
            return []
        self._oldest_first()
        first = len(self._running)
        rows, tokens = self._read_together()
        parts = [row.unread[:tokens] for row in rows if row.unread is not None]
        logits = prefill(self.model, parts, self._cache, first)
        done = []
        for place, (row, part) in enumerate(zip(rows, parts, strict=True)):
            rest = None if row.unread is None else row.unread[len(part) :]
            row.unread = rest if rest is not None and len(rest) else None
            self._held[first + place] = row.key[: self._cache.lengths[first + place]]
            if row.unread is None:
                done.append(place)
        for place in done:
            self._begin(rows[place])
        return self._choose([rows[place] for place in done], logits[done])

    def _oldest_first(self) -> None:
        """Rows that end mix up the order of those that are read: without this one of them could wait for ever."""
        oldest = min(range(len(self._reading)), key=lambda place: self._reading[place].id)
        self._swap(len(self._running), len(self._running) + oldest)
        self._reading[0], self._reading[oldest] = self._reading[oldest], self._reading[0]

    def _begin(self, row: _Row) -> None:
        """A row whose prompt was read runs: it comes right behind those that do."""
        place, first = self._reading.index(row), len(self._running)
        self._swap(first + place, first)
        self._reading[place] = self._reading[0]
        self._reading.pop(0)
        self._running.append(row)

    def _read_together(self) -> tuple[list[_Row], int]:
        """The first rows whose prompts are read in one go, and how many tokens of each at most."""
        first, lengths = len(self._running), self._cache.lengths
        left = [len(row.unread) for row in self._reading if row.unread is not None]
        count = 1
        while (
            count < len(left)
            and lengths[first + count] == lengths[first]
            and (count + 1) * max(left[: count + 1]) <= min(MAX_READ, 2 * sum(left[: count + 1]))
        ):
            count += 1
        return self._reading[:count], min(max(left[:count]), max(1, MAX_READ // count))

    def _admit(self) -> None:
        """Give waiting requests their rows, and see what they need not read."""
        taken: list[_Row] = []
        while self._waiting and self.num_running < self.max_rows and not self._soon_shared(self._waiting[0]):
            row = self._waiting.popleft()
            self._place(row, self.num_running)
            self._reading.append(row)
            taken.append(row)
        if not taken:
            return
        hashes = [one for row in taken for one in row.hashes]
        images = [image for row in taken for image in row.request.images]
        features = self.features.of(hashes, images)
        for place, row in enumerate(taken, start=self.num_running - len(taken)):
            ids = torch.tensor([list(row.request.input_ids)], device=self._cache.keys.device)
            shown = torch.stack([features[one] for one in row.hashes]) if row.hashes else None
            row.unread = self.model.embed(ids, shown)[0, self._cache.lengths[place] :]

    def _soon_shared(self, row: _Row) -> bool:
        """Whether a prompt that is being read begins like this one: then this one is better off after it."""
        already = max(_common(held, row.key) for held in self._held)
        return any(_common(other.key, row.key) >= already + MIN_SHARED for other in self._reading)

    def _place(self, row: _Row, place: int) -> None:
        """Make the free row at `place` hold as much of the prompt's beginning as is in the cache."""
        alpha = self.model.rotary_alpha(len(row.key))
        shared = [_common(held, row.key) if self._cache.alphas[i] == alpha else 0 for i, held in enumerate(self._held)]
        best = max(range(self.max_rows), key=lambda i: (shared[i], i))  # a free one rather than one that runs
        tokens = min(shared[best], len(row.key) - 1)
        if tokens < MIN_SHARED:
            tokens, best = 0, min(range(place, self.max_rows), key=self._used.__getitem__)
        if best >= place:
            self._swap(best, place)
            self._cache.lengths[place] = tokens
        else:
            self._swap(min(range(place, self.max_rows), key=self._used.__getitem__), place)
            self._cache.copy_row(best, place, tokens)
        self._cache.alphas[place] = alpha
        self._held[place] = row.key[:tokens]
        self.shared_tokens += tokens

    def _choose(self, rows: list[_Row], logits: Tensor) -> list[Step]:
        """The next token of each row, (B, V) logits; rows that end are freed."""
        if not rows:
            return []
        steps = []
        for row, (token, logprob, top) in zip(rows, choose(logits, [self._draw(row) for row in rows]), strict=True):
            if token in row.request.stop_ids:
                steps.append(Step(row.id, None, finish="stop"))
                self._free(row)
                continue
            row.answer.append(token)
            if row.seen is not None:
                row.seen[token] = True
            ended = len(row.answer) == row.request.max_new_tokens
            steps.append(Step(row.id, token, logprob, top, "length" if ended else None))
            if ended:
                self._free(row)
        return steps

    def _draw(self, row: _Row) -> Draw:
        request = row.request
        early = len(row.answer) < request.min_new_tokens
        banned = sorted(request.stop_ids) if early else []
        return Draw(request.sampling, row.generator, row.seen, banned, request.top_logprobs)

    def _free(self, row: _Row) -> None:
        """Its place goes behind those that run and read."""
        if row in self._running:
            place, last = self._running.index(row), len(self._running) - 1
            self._swap(place, last)
            self._running[place] = self._running[last]
            self._running.pop()
            if self._reading:  # their first row's place is free now: the last one goes there
                self._swap(last, last + len(self._reading))
                self._reading.insert(0, self._reading.pop())
            freed = last + len(self._reading)
        else:
            place = self._reading.index(row)
            self._swap(len(self._running) + place, self.num_running - 1)
            self._reading[place] = self._reading[-1]
            self._reading.pop()
            freed = self.num_running
        self._clock += 1
        self._used[freed] = self._clock

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            self._cache.swap_rows(one, other)
            self._held[one], self._held[other] = self._held[other], self._held[one]
            self._used[one], self._used[other] = self._used[other], self._used[one]


def _common(one: list[int], other: list[int]) -> int:
    """How many numbers both begin with alike."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high - 1:  # the first `low` are alike, the first `high` are not
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low
