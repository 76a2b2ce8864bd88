"""What a recipe would train, in words, without training: `qvl train RECIPE --dry-run`."""

from itertools import islice
from pathlib import Path

import torch

from qvl.data.loader import Loader
from qvl.errors import DataError, UsageError
from qvl.model.qwen_vl import QwenVL
from qvl.train.optim import build_optimizers, freeze
from qvl.train.recipe import PARTS, Recipe
from qvl.train.stage import build_loader, model_config, tokenizer_of

ROWS_LOOKED_AT = 64  # of the data, for what a step holds


def describe(recipe: Recipe, run_dir: Path) -> str:
    """Modules and what of them trains, rates and decays, the schedule, what a step holds. Weights are not needed; data
    are looked at where there are any."""
    tokenizer = tokenizer_of(recipe)
    config = model_config(recipe, tokenizer)
    with torch.device("meta"):
        model = QwenVL(config)
    freeze(model, recipe.trains)
    optim, data, vision = recipe.optim, recipe.data, config.vision
    rows = data.batch_rows * recipe.batches_per_step
    facts = {
        "schedule": f"{recipe.steps:,} steps: {optim.warmup_steps:,} up to {optim.peak_lr:g}, then a cosine down to "
        f"{optim.min_lr:g}; {optim.optimizer}, gradients clipped at {optim.grad_clip:g}, {recipe.precision}",
        "a step": f"{rows:,} rows of up to {data.row_length:,} tokens ({data.batch_rows} of each of {data.streams} "
        f"streams, {recipe.grad_accumulation} times), packing {data.packing!r}",
        "pictures": f"{vision.image_size} pixels: {vision.grid**2:,} patches, {vision.num_queries} places of a row",
        "ranks": f"{recipe.parallel.tensor} share each sample; those that read samples must divide {data.streams}; "
        f"shared out: {recipe.parallel.shard}",
        "data": _held(recipe, run_dir, rows),
    }
    told = [f"{name:10}{fact}" for name, fact in facts.items()]
    return "\n".join([f"{recipe.name}: {recipe.about}", "", *_table(model, recipe), "", *told])


def _table(model: QwenVL, recipe: Recipe) -> list[str]:
    """Each part: parameters that train, that don't, the groups' rates, what decays."""
    groups: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    part_of = {p: name.split(".")[0] for name, p in model.named_parameters()}
    for optimizer in build_optimizers(model, recipe.optim):
        for group in optimizer.param_groups:
            rate = recipe.optim.peak_lr * group["lr_scale"]
            groups[part_of[group["params"][0]]].append((rate, group["weight_decay"]))
    lines = [f"{'part':10}{'trained':>16}{'frozen':>16}   {'groups':>6}   {'rates at the peak':24}weight decay"]
    for part in PARTS:
        params = list(model.get_submodule(part).parameters())
        trained = sum(p.numel() for p in params if p.requires_grad)
        frozen = sum(p.numel() for p in params if not p.requires_grad)
        rates, decays = zip(*groups[part], strict=True) if groups[part] else ((), ())
        span = " to ".join(f"{rate:.3g}" for rate in sorted({min(rates), max(rates)})) if rates else "-"
        decay = ", ".join(f"{value:g}" for value in sorted(set(decays), reverse=True)) or "-"
        lines.append(f"{part:10}{trained:>16,}{frozen:>16,}   {len(groups[part]):>6}   {span:24}{decay}")
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad == trains) for trains in (True, False)]
    return [*lines, f"{'together':10}{counts[0]:>16,}{counts[1]:>16,}"]


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
