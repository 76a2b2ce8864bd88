"""Bytes that a training step holds on one rank, from the model's sizes and the recipe alone: weights, gradients, the
optimizer's state, what is gathered and sent, activations; and the moment at which they are the most.

The forward and the backward pass are walked through unit by unit, as the trainer runs them (parallel.py, measure.py).
"""

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, fields, replace

from qvl.model.config import QwenVLConfig
from qvl.train.activations import (
    FULL,
    Arithmetic,
    Footprint,
    Gradients,
    MicroBatch,
    adapter,
    head,
    language_block,
    stem,
    vision_block,
)
from qvl.train.recipe import ParallelConfig

ROOT = ("stem", "adapter", "head")  # what FSDP gathers at once, for the whole of both passes
LAST = (*ROOT, "embedding")  # whose gradients leave when the backward pass is over
# cuBLAS has 32 MiB for each of the two threads that run the passes, on Hopper; elsewhere 8.
WORKSPACES = 2 * 2**25


@dataclass(frozen=True)
class Memory:
    """Bytes at one moment, by what they hold."""

    weights: float = 0  # float32, this rank's share
    gradients: float = 0
    optimizer: float = 0
    gathered: float = 0  # whole weights, for the products
    buffers: float = 0  # of what is on its way between ranks
    workspaces: float = 0  # of the library that makes the products on a GPU
    vision: float = 0  # activations
    adapter: float = 0
    language: float = 0
    loss: float = 0  # the last norm, the head, the logits
    moment: str = ""

    @property
    def total(self) -> float:
        """Of all kinds."""
        return sum(getattr(self, f.name) for f in fields(self) if f.name != "moment")

    def plus(self, **bytes_of: float) -> "Memory":
        """The same with more of some kinds."""
        return replace(self, **{kind: getattr(self, kind) + count for kind, count in bytes_of.items()})

    def at(self, moment: str) -> "Memory":
        """The same, named."""
        return replace(self, moment=moment)


@dataclass(frozen=True)
class Setup:
    """How one of the ranks trains."""

    trains: Collection[str]
    parallel: ParallelConfig
    data_ranks: int = 1  # that read samples of their own; parallel.tensor times as many in all
    accumulates: bool = False  # several micro-batches a step
    bf16: bool = True
    muon: bool = False
    on_cpu: bool = False

    @property
    def sharded(self) -> bool:
        """Several ranks: FSDP shares out weights, gradients and the optimizer's state."""
        return self.data_ranks * self.parallel.tensor > 1

    @property
    def keeps_all(self) -> bool:
        """ZeRO-1 over several micro-batches: weights stay gathered and gradients whole until the last of them."""
        return self.sharded and self.accumulates and self.parallel.shard == "optimizer"


@dataclass(frozen=True)
class Unit:
    """What runs together: its parameters (of matrices that tensor ranks split, and of the rest), its activations."""

    part: str
    name: str
    split: int
    whole: int


@dataclass(frozen=True)
class _Step:
    """A unit in the two passes: parameters on this rank and those that learn, activations, and bytes of copies of
    weights that autocast holds to the end of the forward pass, though nothing else of the block is kept."""

    kind: str  # of Memory
    name: str
    weights: float
    trained: float
    footprint: Footprint
    cached: float


def model_units(config: QwenVLConfig) -> list[Unit]:
    """Every parameter once, in order of the forward pass; the adapter's holds its fixed table too."""
    v, t = config.vision, config.language
    inner, dim = int(v.width * v.mlp_ratio), v.output_dim
    block = (v.width * (4 * v.width + 2 * inner) + 3 * v.width + inner, 6 * v.width)
    first = v.width * dim if v.width != dim else 0
    width, bias = t.intermediate_size // 2, 0 if t.no_bias else 1
    matrices = t.hidden_size * (4 * t.hidden_size + 3 * width) + 3 * t.hidden_size + bias * 2 * width
    return [
        Unit("language", "embedding", 0, t.vocab_size * t.hidden_size),
        Unit("vision", "stem", 0, v.width * (3 * v.patch_size**2 + v.position_rows + 2)),
        *(Unit("vision", f"vision.{i}", *block) for i in range(v.layers)),
        Unit("adapter", "adapter", 0, first + 2 * v.num_queries * dim + 5 * dim**2 + 10 * dim),
        *(Unit("language", f"language.{i}", matrices, (2 + 2 * bias) * t.hidden_size) for i in range(t.num_layers)),
        Unit("language", "head", 0, t.hidden_size * (1 + t.vocab_size)),
    ]


def num_weights(config: QwenVLConfig) -> dict[str, int]:
    """Parameters of each part."""
    sums = dict.fromkeys(("vision", "adapter", "language"), 0)
    for unit in model_units(config):
        sums[unit.part] += unit.split + unit.whole
    return sums


def peak_memory(config: QwenVLConfig, batch: MicroBatch, setup: Setup) -> Memory:
    """The moment of a step, not the first, at which a rank holds the most."""
    return max(moments(config, batch, setup), key=lambda memory: memory.total)


def moments(config: QwenVLConfig, batch: MicroBatch, setup: Setup) -> Iterator[Memory]:
    """What a rank holds in the optimizer's step, and the most while each unit runs."""
    how = Arithmetic.of(setup.bf16, setup.sharded, setup.on_cpu)
    steps = [_step(unit, config, batch, setup, how) for unit in model_units(config)]
    standing = _standing(steps, config, setup)
    shares = FULL * sum(step.trained for step in steps) / setup.data_ranks
    yield replace(standing, gradients=shares, moment="optimizer step")
    walk = _Walk(steps, setup, how, standing.plus(**_inputs(config, batch)))
    yield from walk.forward()
    yield from walk.backward()


def _standing(steps: list[_Step], config: QwenVLConfig, setup: Setup) -> Memory:
    """What is there through both passes."""
    trained, tensor = sum(step.trained for step in steps), setup.parallel.tensor
    state = 2 * trained  # AdamW's two moments; Muon has one, of the matrices
    if setup.muon:
        state -= sum(unit.split / tensor for unit in model_units(config) if unit.part in setup.trains)
    return Memory(
        weights=FULL * sum(step.weights for step in steps) / setup.data_ranks,
        gradients=FULL * trained / (1 if setup.keeps_all else setup.data_ranks) if setup.accumulates else 0,
        optimizer=FULL * state / setup.data_ranks,
        workspaces=0 if setup.on_cpu else WORKSPACES,
    )


def _inputs(config: QwenVLConfig, batch: MicroBatch) -> dict[str, float]:
    """Pictures as bytes and as numbers; tokens, labels and documents, turns of their places, the mask."""
    tokens = batch.rows * batch.tokens
    language = tokens * (3 * 8 + 2 * FULL * config.language.head_size + batch.isolated * batch.tokens)
    return {"vision": batch.images * 3 * config.vision.image_size**2 * (1 + FULL), "language": language}


def _step(unit: Unit, config: QwenVLConfig, batch: MicroBatch, setup: Setup, how: Arithmetic) -> _Step:
    tensor, learns = setup.parallel.tensor, unit.part in setup.trains
    fresh = how.product if setup.sharded else 0 if setup.accumulates else FULL
    upstream = {"vision": ("vision",), "adapter": ("vision", "adapter"), "language": setup.trains}[unit.part]
    flow = Gradients(learns, any(part in setup.trains for part in upstream), fresh)
    weights, kind, cached = unit.split / tensor + unit.whole, unit.part, 0.0
    if unit.name == "stem":
        footprint = stem(config, batch, how, flow)
    elif unit.name == "adapter":
        footprint = adapter(config, batch, how, flow)
    elif unit.name == "embedding":  # held until pictures are put in; its gradient until the ViT's are through
        size = how.language_stream * batch.rows * batch.tokens * config.language.hidden_size
        footprint = Footprint(size, size, size + learns * fresh * weights)
    elif unit.name == "head":
        footprint, kind = head(config, batch, how, flow), "loss"
    else:
        block = vision_block if unit.part == "vision" else language_block
        footprint = block(config, batch, how, flow, tensor)
        if setup.parallel.checkpoint_activations and flow.passes:
            alone = block(config, batch, how, Gradients(False, False, 0), tensor)
            kept, beside = _block_input(unit.part, config, batch, how)
            again = max(footprint.forward, footprint.backward)
            footprint, cached = Footprint(kept, alone.forward, beside + again), how.cast * learns * weights
    return _Step(kind, unit.name, weights, learns * weights, footprint, cached)


def _block_input(part: str, config: QwenVLConfig, batch: MicroBatch, how: Arithmetic) -> tuple[float, float]:
    """Bytes of what goes into a block, and of them what the block's own footprint does not hold."""
    if part == "vision":
        return how.vision_stream * batch.images * config.vision.grid**2 * config.vision.width, 0.0
    kept = how.language_stream * batch.rows * batch.tokens * config.language.hidden_size
    return kept, 0.0 if how.language_stream == FULL else kept  # the norm keeps a copy of its own


class _Walk:
    """The two passes, unit by unit; `now` is what is held between two units."""

    def __init__(self, steps: list[_Step], setup: Setup, how: Arithmetic, start: Memory) -> None:
        self.steps, self.setup, self.how = steps, setup, how
        standing = [s for s in steps if setup.keeps_all or s.name in ROOT] if setup.sharded else []
        self.now = start.plus(gathered=sum(map(self._bytes, standing)))
        self.moving = {s.name for s in steps} - {s.name for s in standing} if setup.sharded else set()
        self.again = setup.parallel.shard == "parameters"  # gathered for each pass anew

    def _bytes(self, step: _Step) -> float:
        """Of a unit's weights as products take them."""
        return self.how.product * step.weights

    def forward(self) -> Iterator[Memory]:
        """As each unit's weights arrive, and the most while it runs."""
        before = 0.0 if self.setup.keeps_all else self.now.gathered  # what came last, still in its buffer
        for step in self.steps:
            moment, arriving = f"forward, {step.name}", 0.0
            if step.name in self.moving:
                arriving = self._bytes(step)
                self.now = self.now.plus(gathered=arriving)
                yield self.now.plus(buffers=before + arriving).at(moment)
                before = arriving
            yield self.now.plus(buffers=before).plus(**{step.kind: step.footprint.forward}).at(moment)
            self.now = self.now.plus(**{step.kind: step.footprint.saved + step.cached})
            if self.again:
                self.now = self.now.plus(gathered=-arriving)

    def backward(self) -> Iterator[Memory]:
        """The most while each unit runs, and as its gradients leave."""
        for step in self.steps:
            self.now = self.now.plus(**{step.kind: -step.cached})
        sent = 0.0  # bytes of the gradients of the unit before, which are on their way
        for step, following in zip(reversed(self.steps), [*reversed(self.steps[:-1]), None], strict=True):
            self.now = self.now.plus(**{step.kind: -step.footprint.saved})
            if not step.footprint.backward:
                continue
            moment, arriving = f"backward, {step.name}", 0.0
            if self.again and step.name in self.moving:
                self.now = self.now.plus(gathered=self._bytes(step))
                arriving = self._bytes(following) if following and following.name in self.moving else 0.0
            yield self.now.plus(buffers=sent + arriving).plus(**{step.kind: step.footprint.backward}).at(moment)
            if self.setup.sharded and step.name not in LAST:
                self.now = self.now.plus(gathered=-self._bytes(step))
            if self.setup.sharded:
                sent = yield from self._send(step, sent, arriving)
            elif not self.setup.accumulates:
                self.now = self.now.plus(gradients=FULL * step.trained)
        if self.setup.sharded:
            leaving = [step for step in self.steps if step.name in ROOT], [self.steps[0]]
            sent = max(FULL * sum(step.trained for step in unit) for unit in leaving)
            yield self.now.plus(buffers=sent).at("backward, the last gradients")

    def _send(self, step: _Step, sent: float, arriving: float) -> Generator[Memory, None, float]:
        """A unit's gradients: bf16 from the products, float32 on their way, then this rank's share."""
        fresh, leaving = self.how.product * step.trained, FULL * step.trained
        if step.name in LAST:
            self.now = self.now.plus(gradients=fresh)
            return sent
        added = self.setup.keeps_all  # to the older ones, before they leave
        most = self.now.plus(gradients=0 if added else fresh, buffers=leaving + arriving)
        yield most.at(f"backward, {step.name}")
        share = leaving / self.setup.data_ranks
        if added:
            self.now = self.now.plus(gradients=share - leaving)
        elif not self.setup.accumulates:
            self.now = self.now.plus(gradients=share)
        return leaving
