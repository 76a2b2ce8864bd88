"""What a recipe would train, in words, without training: `qvl train RECIPE --dry-run`."""

from itertools import islice
from pathlib import Path
from textwrap import fill

from qvl.data.loader import Loader
from qvl.errors import DataError, UsageError
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.train.lora import targets
from qvl.train.optim import build_optimizers, freeze
from qvl.train.plan_report import WIDTH, cost_text
from qvl.train.recipe import LoraConfig, Recipe
from qvl.train.stage import build_loader, model_config, tokenizer_of
from qvl.train.trained import table, what_trains

ROWS_LOOKED_AT = 64  # of the data, for what a step holds


def describe(recipe: Recipe, run_dir: Path, ranks: int = 1) -> str:
    """Modules and what of them trains, rates and decays, the schedule, what a step holds, memory and time of so many
    ranks. Weights are not needed; data are looked at where there are any."""
    tokenizer = tokenizer_of(recipe)
    config = model_config(recipe, tokenizer)
    with skeleton():
        model = QwenVL(config)
    freeze(model, () if recipe.lora else recipe.trains)
    optim, data, vision = recipe.optim, recipe.data, config.vision
    rows = data.batch_rows * recipe.batches_per_step
    memory, time = cost_text(recipe, ranks)
    if recipe.parallel.deepspeed:
        memory = "not known of DeepSpeed"
    rates = _adapters(model, recipe, recipe.lora) if recipe.lora else _rates(model, recipe)
    facts = {
        "rates": f"{rates} at the peak; decay {optim.weight_decay:g} of matrices, none of vectors",
        "schedule": f"{recipe.steps:,} steps: {optim.warmup_steps:,} up to {optim.peak_lr:g}, then a cosine down to "
        f"{optim.min_lr:g}; {optim.optimizer}, gradients clipped at {optim.grad_clip:g}, {recipe.precision}",
        "a step": f"{rows:,} rows of up to {data.row_length:,} tokens ({data.batch_rows} of each of {data.streams} "
        f"streams, {recipe.grad_accumulation} times), packing {data.packing!r}",
        "pictures": f"{vision.image_size} pixels: {vision.grid**2:,} patches, {vision.num_queries} places of a row",
        "ranks": _ranks(recipe),
        "data": _held(recipe, run_dir, rows),
        "memory": memory,
        "time": time,
    }
    told = [fill(f"{name:10}{fact}", WIDTH, subsequent_indent=" " * 10) for name, fact in facts.items()]
    return "\n".join([f"{recipe.name}: {recipe.about}", "", table(what_trains(model)), "", *told])


def _rates(model: QwenVL, recipe: Recipe) -> str:
    """The optimizer's groups of each part: from the least to the greatest rate at the peak."""
    rates: dict[str, list[float]] = {}
    part_of = {p: name.split(".")[0] for name, p in model.named_parameters()}
    for optimizer in build_optimizers(model, recipe.optim):
        for group in optimizer.param_groups:
            rates.setdefault(part_of[group["params"][0]], []).append(recipe.optim.peak_lr * group["lr_scale"])
    spans = {part: " to ".join(f"{rate:.3g}" for rate in sorted({min(r), max(r)})) for part, r in rates.items()}
    return ", ".join(f"{part} {span} ({len(rates[part])} groups)" for part, span in spans.items())


def _adapters(model: QwenVL, recipe: Recipe, lora: LoraConfig) -> str:
    """What trains in place of the frozen weights."""
    matrices = [model.get_parameter(f"{name}.weight") for name in targets(model, recipe.trains)]
    numbers = sum(lora.r * sum(matrix.shape) for matrix in matrices)
    return f"adapters of rank {lora.r} on {len(matrices)} matrices, {numbers:,} numbers, {recipe.optim.peak_lr:g}"


def _ranks(recipe: Recipe) -> str:
    """How ranks would share the work."""
    if recipe.lora:
        return f"must divide {recipe.data.streams}; each holds the base whole"
    if recipe.parallel.deepspeed:
        return f"must divide {recipe.data.streams}; shared out by DeepSpeed, {recipe.parallel.deepspeed}"
    return (
        f"{recipe.parallel.tensor} share each sample; those that read samples must divide {recipe.data.streams}; "
        f"shared out: {recipe.parallel.shard}"
    )


def _held(recipe: Recipe, run_dir: Path, rows: int) -> str:
    """What a step holds, from the first rows of the data."""
    tokenizer = tokenizer_of(recipe)
    try:
        loader = build_loader(recipe, run_dir, model_config(recipe, tokenizer), tokenizer)
    except (DataError, UsageError) as error:
        return f"not looked at ({error})"
    if not isinstance(loader, Loader):
        return f"{rows} pictures a step, labels for each patch"
    batches = islice(loader.rows(), -(-ROWS_LOOKED_AT // recipe.data.batch_rows))
    drawn = [[sample for row in batch for sample in row] for batch, _ in batches]
    share = rows / (len(drawn) * recipe.data.batch_rows)
    samples, images, tokens = (
        round(share * sum(values))
        for values in zip(*((1, d.num_images, d.length) for b in drawn for d in b), strict=True)
    )
    return f"about {samples:,} samples, {images:,} pictures, {tokens:,} tokens a step, by the first rows"
