"""A plan as a page of text for a person, and as values for a program."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from textwrap import fill
from typing import Any

from qvl.errors import RecipeError
from qvl.train.devices import DEVICES
from qvl.train.memory import Memory
from qvl.train.planner import Plan, Way, plan, share_batches
from qvl.train.recipe import PARTS, Recipe
from qvl.train.workload import TYPICAL

GB = 1e9
WIDTH, INDENT = 110, "  "
TIGHT = 0.95  # of the memory: beyond, an error of the plan of some per cent may decide
KINDS = {
    "weights": "float32 weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "gathered": "gathered weights",
    "buffers": "communication",
    "workspaces": "workspaces of the products",
    "vision": "activations of the ViT",
    "adapter": "of the adapter",
    "language": "of the language model",
    "loss": "head and logits",
}


def plan_text(plan: Plan) -> str:
    """One page."""
    lines = [*_heading(plan), "", *_table(plan), "", *_verdict(plan), *_assumptions(plan)]
    return "\n".join(fill(line, WIDTH, subsequent_indent=INDENT) if len(line) > WIDTH else line for line in lines)


def cost_text(recipe: Recipe, gpus: int) -> tuple[str, str]:
    """Memory, and time on H100s, of the recipe as it is: a line each."""
    more = "other GPUs, other ways to share: `qvl plan RECIPE --gpus N --device NAME`"
    try:
        made = plan(recipe, DEVICES["h100"], gpus)
    except RecipeError as error:
        return f"not reckoned ({error})", "not reckoned"
    work = f"{_flop(made.operations)} a step, {_flop(made.operations * recipe.steps)} in all"
    own = made.own
    if own is None:
        return f"parallel.tensor = {recipe.parallel.tensor} does not divide {gpus}: give --ranks N", f"{work}; {more}"
    where = "one GPU" if gpus == 1 else f"each of {gpus} GPUs"
    memory = f"{own.memory.total / GB:.3g} GB on {where} at the fullest ({own.memory.moment}): {_contents(own.memory)}"
    if own.batches is None:
        return memory, f"{work}; {own.data_ranks} ranks can't share the {made.rows} rows of a step"
    took = _duration(own.seconds * recipe.steps)
    return memory, f"{work}: {took} on {gpus} x H100 at {made.assumed_mfu:.0%} of the peak; {more}"


def _heading(plan: Plan) -> Iterator[str]:
    recipe, step, device, full = plan.recipe, plan.step, plan.device, plan.fullest
    yield (
        f"{recipe.name} on {plan.gpus} x {device.reported}: {device.memory_bytes / GB:.0f} GB and "
        f"{device.peak_flops / 1e12:.0f} TFLOP/s each"
    )
    trains = [f"{part} {_short(plan.weights[part])}{' (frozen)' * (part not in recipe.trains)}" for part in PARTS]
    yield f"model     {_short(sum(plan.weights.values()))} parameters: {', '.join(trains)}"
    yield (
        f"a step    {step.samples:,.0f} samples: {_short(step.tokens)} tokens, {_short(step.work.supervised)} of them "
        f"supervised, {_short(step.work.images)} pictures; {_flop(plan.operations)}"
    )
    yield (
        f"in all    {recipe.steps:,} steps: {_short(step.samples * recipe.steps)} samples, "
        f"{_short(step.tokens * recipe.steps)} tokens; {_flop(plan.operations * recipe.steps)}"
    )
    yield (
        f"memory    for micro-batches of {full.rows} x {full.tokens:,} tokens ({full.supervised:,} supervised), "
        f"{full.images} pictures: the fullest"
    )


def _table(plan: Plan) -> Iterator[str]:
    many = plan.gpus > 1
    yield "  shard       tensor  checkpoint    GB a GPU  fits    s a step  tokens/s  images/s    MFU   GPU-hours"
    for way in plan.ways:
        mark = ">" if way is plan.best else "*" if way is plan.own else " "
        parallel = way.parallel
        shard = parallel.shard if many else "-"
        again = "yes" if parallel.checkpoint_activations else "no"
        fits = "tight" if way.memory.total > TIGHT * plan.device.memory_bytes else "yes"
        line = f"{mark} {shard:12}{parallel.tensor:6}  {again:10}{way.memory.total / GB:12.1f}"
        if not way.fits:
            yield f"{line}  no"
        elif way.batches is None:
            yield f"{line}  {fits:5} {way.data_ranks} ranks can't share the {plan.rows} rows of a step"
        else:
            tokens, images = plan.step.tokens / way.seconds, plan.step.work.images / way.seconds
            yield (
                f"{line}  {fits:5}{way.seconds:10.3g}{_short(tokens):>10}{_short(images):>10}{way.mfu:7.0%}"
                f"{_short(gpu_hours(plan, way)):>12}"
            )


def _verdict(plan: Plan) -> Iterator[str]:
    best, own = plan.best, plan.own
    if own is None:
        yield f"  The recipe's parallel.tensor = {plan.recipe.parallel.tensor} does not divide {plan.gpus} GPUs."
    if best is None:
        yield from _why_none(plan)
        return
    name = "the recipe as it is" if best is own else "fits and is the fastest"
    took = _duration(best.seconds * plan.recipe.steps)
    yield f"> {name}: {took}, {_short(gpu_hours(plan, best))} GPU-hours"
    yield f"{INDENT}at its fullest ({best.memory.moment}): {_contents(best.memory)}"
    yield from _settings(plan, best)
    if own is not None and own is not best:
        yield f"* the recipe as it is: {_against(own, best)}"
        if own.works:
            yield from _settings(plan, own)


def _settings(plan: Plan, way: Way) -> Iterator[str]:
    streams = plan.recipe.data.streams
    if streams % way.data_ranks:
        yield f"{INDENT}{way.data_ranks} ranks can't share {streams} streams evenly; these have the same rows a step:"
    if changes := [f"--set {change}" for change in changes_of(plan, way)]:
        yield INDENT + " ".join(changes)


def _against(own: Way, best: Way) -> str:
    if not own.fits:
        return f"needs {own.memory.total / GB:.1f} GB"
    if own.batches is None:
        return f"{own.data_ranks} ranks can't share the rows of a step"
    return f"takes {own.seconds / best.seconds - 1:.0%} longer"


def _why_none(plan: Plan) -> Iterator[str]:
    fitting = [way for way in plan.ways if way.fits]
    if not fitting:
        least = min(way.memory.total for way in plan.ways) / GB
        yield f"  Nothing fits; the least is {least:.1f} GB. Take more GPUs or larger ones, or fewer data.batch_rows."
        return
    counts = {way.parallel.tensor: most_gpus(plan, way) for way in fitting}
    told = ", or ".join(f"{count} GPUs with parallel.tensor={tensor}" for tensor, count in counts.items())
    yield f"  Every rank that reads samples needs as many of a step's {plan.rows} rows as the others: take {told}."


def most_gpus(plan: Plan, way: Way) -> int:
    """GPUs, at most those of the plan, among whose ranks a step's rows can be shared."""
    ranks = next(ranks for ranks in range(way.data_ranks, 0, -1) if share_batches(plan.recipe, ranks))
    return ranks * way.parallel.tensor


def changes_of(plan: Plan, way: Way) -> Iterator[str]:
    """What to set, as key=value, so that the recipe trains this way."""
    recipe, parallel, batches = plan.recipe, way.parallel, way.batches
    if plan.gpus > 1 and parallel.shard != recipe.parallel.shard:
        yield f"parallel.shard={parallel.shard}"
    if parallel.tensor != recipe.parallel.tensor:
        yield f"parallel.tensor={parallel.tensor}"
    if parallel.checkpoint_activations != recipe.parallel.checkpoint_activations:
        yield f"parallel.checkpoint_activations={str(parallel.checkpoint_activations).lower()}"
    if batches is not None:
        if batches.batch_rows != recipe.data.batch_rows:
            yield f"data.batch_rows={batches.batch_rows}"
        if batches.streams != recipe.data.streams:
            yield f"data.streams={batches.streams}"
        if batches.grad_accumulation != recipe.grad_accumulation:
            yield f"grad_accumulation={batches.grad_accumulation}"


def gpu_hours(plan: Plan, way: Way) -> float:
    """Of the whole stage."""
    return way.seconds * plan.recipe.steps * plan.gpus / 3600


def _contents(memory: Memory) -> str:
    held = {kind: getattr(memory, kind) / GB for kind in KINDS}
    return ", ".join(f"{KINDS[kind]} {size:.1f}" for kind, size in held.items() if size >= 0.05) + " GB"


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.2g} min"


def _flop(count: float) -> str:
    return f"{count:.2e} FLOP".replace("e+", "e")


def _assumptions(plan: Plan) -> Iterator[str]:
    samples = ", ".join(
        f"{task} {TYPICAL[task].text}" for task, weight in plan.recipe.data.mixture.items() if weight > 0
    )
    yield f"assumed: {plan.assumed_mfu:.0%} of the peak while computing (--mfu); tokens of a sample's text: {samples}"
    if plan.recipe.parallel.compile:
        yield "parallel.compile: compiled blocks keep less than is reckoned here"
    if plan.recipe.precision == "float32":
        yield 'precision = "float32": times are those of bf16 products, which are many times as fast'


def total_text(plans: Sequence[Plan]) -> str:
    """What several stages cost together, each in its best way."""
    cost = [(plan, way) for plan in plans if (way := plan.best) is not None]
    left_out = [plan.recipe.name for plan in plans if plan.best is None]
    took = _duration(sum(way.seconds * plan.recipe.steps for plan, way in cost))
    hours = sum(gpu_hours(plan, way) for plan, way in cost)
    operations = sum(plan.operations * plan.recipe.steps for plan, _ in cost)
    line = f"together  {_flop(operations)}, {took}, {_short(hours)} GPU-hours"
    return line + (f"; without {', '.join(left_out)}" if left_out else "")


def plan_values(plan: Plan) -> dict[str, Any]:
    """Everything in the page, for JSON; bytes, seconds, FLOP."""
    ways = [
        {
            **asdict(way.parallel),
            "data_ranks": way.data_ranks,
            "memory_bytes": {**{kind: getattr(way.memory, kind) for kind in KINDS}, "peak": way.memory.total},
            "peak_at": way.memory.moment,
            "fits": way.fits,
            "batches": None if way.batches is None else asdict(way.batches),
            "seconds_per_step": way.seconds,
            "mfu": way.mfu,
            "gpu_hours": gpu_hours(plan, way),
            "recommended": way is plan.best,
            "set": list(changes_of(plan, way)),
        }
        for way in plan.ways
    ]
    work = plan.step.work
    return {
        "recipe": plan.recipe.name,
        "gpus": plan.gpus,
        "device": plan.device.reported,
        "parameters": plan.weights,
        "steps": plan.recipe.steps,
        "step": {
            "samples": plan.step.samples,
            "tokens": plan.step.tokens,
            "supervised": work.supervised,
            "images": work.images,
            "operations": plan.operations,
        },
        "fullest_micro_batch": asdict(plan.fullest),
        "assumed_mfu": plan.assumed_mfu,
        "ways": ways,
    }


def _short(number: float) -> str:
    """1,234 or 12.3k, 4.56M, 7.89B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            scaled = number / (1e3 if letter == "k" else size)
            return f"{scaled:,.{max(0, 3 - len(str(int(scaled))))}f}{letter}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
