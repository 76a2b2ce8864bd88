"""Recipes side by side: what each stage sees, what of the model trains, how fast, and which tokens count."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

from qvl.explain.columns import quantity
from qvl.files import write_text
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.pages import page
from qvl.text.render import DIALOGUE
from qvl.train.optim import freeze, lr_at
from qvl.train.recipe import Recipe
from qvl.train.stage import model_config, tokenizer_of
from qvl.train.trained import what_trains

CURVE = "▁▂▃▄▅▆▇█"
CURVE_POINTS = 24
WIDTH = 34  # of a column
STYLE = """
body { max-width: 1180px } table { width: 100% } td { vertical-align: top } td:first-child { color: #5b6675 }
polyline { fill: none; stroke: #2f6fde; stroke-width: 2; vector-effect: non-scaling-stroke }
svg { width: 100%; height: 80px }
"""
# Which tokens of a row carry loss, as qvl.text.render decides it.
OF_DIALOGUES = "what the assistant says; of every turn where it begins and ends"
OF_TASKS = "the answer and <|endoftext|>; what is asked does not"
OF_BOTH = f"{OF_TASKS}; of dialogues {OF_DIALOGUES}"
OF_PATCHES = "the label of each patch"


def compared(recipes: Sequence[Recipe]) -> dict[str, list[str]]:
    """What is compared -> a value of each recipe."""
    columns = [_facts(recipe) for recipe in recipes]
    return {name: [column[name] for column in columns] for name in columns[0]}


def _facts(recipe: Recipe) -> dict[str, str]:
    config = model_config(recipe, tokenizer_of(recipe))
    with skeleton():
        model = QwenVL(config)
    freeze(model, () if recipe.lora else recipe.trains)
    groups = what_trains(model)
    data, optim, vision = recipe.data, recipe.optim, config.vision
    rows = data.batch_rows * recipe.batches_per_step
    weights = sum(data.mixture.values())
    shares = sorted(data.mixture.items(), key=lambda item: -item[1])
    starts: dict[str, list[str]] = {}
    for part, source in recipe.init_from.items():
        starts.setdefault(source, []).append(part)
    return {
        "what": recipe.about,
        "data": ", ".join(f"{task} {weight / weights:.0%}" for task, weight in shares) or "pictures labelled by patch",
        "starts from": "; ".join(f"{', '.join(parts)}: {source}" for source, parts in starts.items()) or "random",
        "trains": ", ".join(f"{g.name} {quantity(g.trained)}" for g in groups if g.trained),
        "frozen": ", ".join(f"{g.name} {quantity(g.total)}" for g in groups if not g.trained) or "nothing",
        "pictures": f"{vision.image_size} px: {vision.grid**2:,} patches -> {vision.num_queries} places",
        "row": f"{data.row_length:,} tokens, packing {data.packing}",
        "a step": f"{rows:,} rows ({recipe.grad_accumulation} accumulations)",
        "steps": f"{recipe.steps:,}, of them warm-up {optim.warmup_steps:,}",
        "learning rate": f"{optim.peak_lr:g} to {optim.min_lr:g}" + _scales(recipe),
        "its curve": "".join(CURVE[round(rate * (len(CURVE) - 1))] for rate in lr_curve(recipe, CURVE_POINTS)),
        "optimizer": f"{optim.optimizer}, decay {optim.weight_decay:g}, clip {optim.grad_clip:g}, {recipe.precision}",
        "loss of": _counted(recipe),
    }


def lr_curve(recipe: Recipe, points: int) -> list[float]:
    """The rate over the run as a share of its peak, `points` of them."""
    optim = recipe.optim
    steps = [round(i * (recipe.steps - 1) / (points - 1)) for i in range(points)]
    return [lr_at(step, recipe.steps, optim) / optim.peak_lr for step in steps]


def _scales(recipe: Recipe) -> str:
    optim = recipe.optim
    said = [f"{part} x {scale:g}" for part, scale in optim.lr_scale.items()]
    if optim.vision_layer_decay != 1 and "vision" in recipe.trains:
        said.append(f"vision x {optim.vision_layer_decay:g} a layer down")
    return f" ({', '.join(said)})" if said else ""


def _counted(recipe: Recipe) -> str:
    if recipe.objective == "dense":
        return OF_PATCHES
    kinds = {task == DIALOGUE for task, weight in recipe.data.mixture.items() if weight}
    return OF_BOTH if len(kinds) == 2 else OF_DIALOGUES if True in kinds else OF_TASKS


def compared_text(names: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """For a terminal, long values over several lines."""
    lines = [_columns("", [[name] for name in names])]
    lines += [_columns(name, [wrap(value, WIDTH - 2) for value in values]) for name, values in rows.items()]
    return "\n".join(lines)


def _columns(name: str, cells: list[list[str]]) -> str:
    height = max(map(len, cells))
    lines = []
    for i in range(height):
        row = "".join((cell[i] if i < len(cell) else "").ljust(WIDTH) for cell in cells)
        lines.append(f"{name if i == 0 else '':15}{row}".rstrip())
    return "\n".join(lines)


def write_recipes_page(recipes: Sequence[Recipe], out: Path) -> None:
    """The same as a page, curves drawn."""
    rows = compared(recipes)
    rows.pop("its curve")
    head = "".join(f"<th>{html.escape(recipe.name)}</th>" for recipe in recipes)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{html.escape(value)}</td>' for value in values)}</tr>"
        for name, values in rows.items()
    )
    curves = "".join(f"<td>{_svg(lr_curve(recipe, 200))}</td>" for recipe in recipes)
    table = f"<table><tr><th></th>{head}</tr>{body}<tr><td>rate over the run</td>{curves}</tr></table>"
    write_text(out, page("qvl: recipes", f"<h1>The stages side by side</h1>{table}", STYLE))


def _svg(curve: list[float]) -> str:
    points = " ".join(f"{i},{100 - 96 * rate:.1f}" for i, rate in enumerate(curve))
    return f'<svg viewBox="0 0 {len(curve) - 1} 100" preserveAspectRatio="none"><polyline points="{points}"/></svg>'
