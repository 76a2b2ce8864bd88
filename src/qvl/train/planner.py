"""What a recipe needs on so many GPUs: memory, time and cost for each way to share the work, and the way to take.

Memory is that of memory.py, of the fullest micro-batch. Time is the model's operations at an assumed MFU, and what a
way adds to them: blocks that run again, sums among tensor ranks, and traffic that takes longer than the computing that
hides it. docs/planning.md has the formulas.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from qvl.errors import RecipeError, UsageError
from qvl.model.config import QwenVLConfig
from qvl.train.activations import FULL, MicroBatch
from qvl.train.devices import Device
from qvl.train.flops import mfu, recomputed_operations, step_operations
from qvl.train.memory import Memory, Setup, model_units, num_weights, peak_memory
from qvl.train.recipe import SHARDINGS, ParallelConfig, Recipe
from qvl.train.stage import sized_config
from qvl.train.workload import StepSize, expected_step, fullest_batch

ASSUMED_MFU = 0.40  # of real tokens, where nothing runs twice and no traffic shows
LINK_SHARE = 0.8  # of the bandwidth of links that collectives reach
SAME = 0.02  # times that differ less are the same: then the recipe's own way is taken, or that of least traffic


@dataclass(frozen=True)
class Batches:
    """How a step's rows are dealt: the recipe's own way where ranks can share it, else one with the same rows."""

    batch_rows: int
    streams: int
    grad_accumulation: int


@dataclass(frozen=True)
class Way:
    """One way to share the work, and what comes of it. batches is None where ranks can't share a step's rows."""

    parallel: ParallelConfig
    data_ranks: int
    batches: Batches | None
    memory: Memory
    fits: bool
    seconds: float  # a step
    traffic: float  # bytes that a rank sends and receives in a step
    mfu: float

    @property
    def works(self) -> bool:
        """Whether training would run so."""
        return self.fits and self.batches is not None


@dataclass(frozen=True)
class Plan:
    """A recipe on `gpus` of a device."""

    recipe: Recipe
    config: QwenVLConfig
    device: Device
    gpus: int
    weights: dict[str, int]
    step: StepSize
    fullest: MicroBatch
    operations: float  # a step, all GPUs together
    assumed_mfu: float
    ways: list[Way]

    @property
    def rows(self) -> int:
        """Of a step."""
        return self.recipe.data.batch_rows * self.recipe.batches_per_step

    @property
    def own(self) -> Way | None:
        """The recipe's own way; None where its tensor ranks don't divide the GPUs."""
        return next((way for way in self.ways if _same(way.parallel, self.recipe.parallel, self.gpus)), None)

    @property
    def best(self) -> Way | None:
        """Of those that work, the fastest; among the same, the recipe's own, then that of least traffic."""
        working = [way for way in self.ways if way.works]
        if not working:
            return None
        fastest = min(way.seconds for way in working)
        close = [way for way in working if way.seconds <= fastest * (1 + SAME)]
        return min(close, key=lambda way: (way is not self.own, way.traffic, way.seconds))


def plan(recipe: Recipe, device: Device, gpus: int, assumed_mfu: float = ASSUMED_MFU) -> Plan:
    """Every way to run a recipe on so many GPUs. RecipeError for the vision warm-up, which has no tokens, and for
    adapters."""
    if recipe.objective != "next_token":
        raise RecipeError(f"objective = {recipe.objective!r}: only stages that learn next tokens are planned")
    if recipe.lora:
        raise RecipeError("[lora]: adapters can't be planned, only stages whose own weights train")
    if gpus < 1:
        raise UsageError(f"--gpus {gpus}: at least 1")
    if not 0 < assumed_mfu <= 1:
        raise UsageError(f"--mfu {assumed_mfu}: expected a share of the peak, above 0 and up to 1")
    config = sized_config(recipe)
    step, fullest = expected_step(recipe, config), fullest_batch(recipe, config)
    operations = step_operations(config, recipe.trains, step.work).total
    bare = Plan(
        recipe, config, device, gpus, num_weights(config), step, fullest, operations, assumed_mfu=assumed_mfu, ways=[]
    )
    return replace(bare, ways=[_way(bare, parallel) for parallel in _choices(recipe, config, gpus)])


def _choices(recipe: Recipe, config: QwenVLConfig, gpus: int) -> Iterator[ParallelConfig]:
    shards = SHARDINGS if gpus > 1 else (recipe.parallel.shard,)
    heads = config.vision.heads, config.language.num_heads
    tensors = sorted({1, 2, recipe.parallel.tensor})
    tensors = [t for t in tensors if gpus % t == 0 and all(count % t == 0 for count in heads)]
    for tensor, again, shard in product(tensors, (False, True), shards):
        yield replace(recipe.parallel, shard=shard, tensor=tensor, checkpoint_activations=again)


def _same(way: ParallelConfig, own: ParallelConfig, gpus: int) -> bool:
    shard = gpus == 1 or way.shard == own.shard
    return shard and (way.tensor, way.checkpoint_activations) == (own.tensor, own.checkpoint_activations)


def share_batches(recipe: Recipe, data_ranks: int) -> Batches | None:
    """The recipe's streams, or as many as there are ranks with the same rows a step; None where that can't be."""
    rows, streams, accumulation = recipe.data.batch_rows, recipe.data.streams, recipe.grad_accumulation
    if streams % data_ranks == 0:
        return Batches(rows, streams, accumulation)
    for fewer in (count for count in range(rows, 0, -1) if rows % count == 0):
        batches = rows // fewer * streams * accumulation
        if batches % data_ranks == 0:
            return Batches(fewer, data_ranks, batches // data_ranks)
    return None


def _way(plan: Plan, parallel: ParallelConfig) -> Way:
    data_ranks = plan.gpus // parallel.tensor
    batches = share_batches(plan.recipe, data_ranks)
    dealt = batches or Batches(plan.recipe.data.batch_rows, data_ranks, 1)
    micro_batches = dealt.streams * dealt.grad_accumulation // data_ranks  # of a rank in a step
    smaller = dealt.batch_rows / plan.fullest.rows
    fullest = replace(
        plan.fullest,
        rows=dealt.batch_rows,
        images=round(plan.fullest.images * smaller),
        supervised=round(plan.fullest.supervised * smaller),
    )
    bf16, muon = plan.recipe.precision == "bf16", plan.recipe.optim.optimizer == "muon"
    setup = Setup(plan.recipe.trains, parallel, data_ranks, micro_batches > 1, bf16, muon)
    memory = peak_memory(plan.config, fullest, setup)
    computing = _computing_seconds(plan, parallel)
    sums = _tensor_bytes(plan, parallel) / data_ranks
    moved = _data_bytes(plan, setup)
    hidden = computing / micro_batches  # behind the computing of a micro-batch, or of two where it comes once a step
    times = 1 if setup.keeps_all else micro_batches
    late = times * max(0.0, moved / _bandwidth(plan, parallel.tensor) - hidden * (2 if setup.keeps_all else 1))
    seconds = computing + late + sums / (plan.device.links * LINK_SHARE)
    return Way(
        parallel=parallel,
        data_ranks=data_ranks,
        batches=batches,
        memory=memory,
        fits=memory.total <= plan.device.memory_bytes,
        seconds=seconds,
        traffic=times * moved + sums,
        mfu=mfu(plan.operations, seconds, plan.gpus, plan.device.peak_flops),
    )


def _computing_seconds(plan: Plan, parallel: ParallelConfig) -> float:
    again = 0.0
    if parallel.checkpoint_activations:
        again = recomputed_operations(plan.config, plan.recipe.trains, plan.step.work)
    return (plan.operations + again) / (plan.gpus * plan.device.peak_flops * plan.assumed_mfu)


def _tensor_bytes(plan: Plan, parallel: ParallelConfig) -> float:
    """Of a step's sums among the ranks that share samples, over all samples: two of a block's width in each pass."""
    v, t, trains = plan.config.vision, plan.config.language, plan.recipe.trains
    passes = 2 + parallel.checkpoint_activations
    vision = v.layers * plan.step.work.images * v.grid**2 * v.width * (passes if "vision" in trains else 1)
    language = t.num_layers * plan.step.tokens * t.hidden_size * passes
    sent = 2 * (parallel.tensor - 1) / parallel.tensor  # of each number, by a ring
    return sent * 2 * (vision + language) * _product_bytes(plan.recipe)


def _product_bytes(recipe: Recipe) -> int:
    return 2 if recipe.precision == "bf16" else 4


def _data_bytes(plan: Plan, setup: Setup) -> float:
    """Of what data ranks exchange at once: weights to gather, gradients to add up."""
    if not setup.sharded:
        return 0.0
    tensor, ranks, twice = setup.parallel.tensor, setup.data_ranks, setup.parallel.shard == "parameters"
    units = model_units(plan.config)
    weights = sum(unit.split / tensor + unit.whole for unit in units)
    trained = sum(unit.split / tensor + unit.whole for unit in units if unit.part in setup.trains)
    gathered = _product_bytes(plan.recipe) * (1 + twice) * weights
    return (ranks - 1) / ranks * (gathered + FULL * trained)


def _bandwidth(plan: Plan, tensor: int) -> float:
    """Bytes/s that reach a rank when data ranks exchange parts. Beyond a node it is what the network brings to those of
    its GPUs that want the same; they pass it on to each other."""
    device = plan.device
    network = device.network * device.gpus_per_node / tensor
    return LINK_SHARE * (device.links if plan.gpus <= device.gpus_per_node else min(device.links, network))
