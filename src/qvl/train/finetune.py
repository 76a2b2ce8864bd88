"""A user's dialogues and a checkpoint -> a recipe for the trainer, complete and with defaults that suit the data."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from qvl.checkpoint.layout import load_config, quantization_of
from qvl.data.packing import pack
from qvl.data.prepare import HELD_OUT, TRAIN, Account, Reading, prepare_dialogues
from qvl.data.sample import read_split
from qvl.errors import UsageError
from qvl.files import write_text
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import (
    PARTS,
    DataConfig,
    HeldOutConfig,
    LoraConfig,
    OptimConfig,
    Recipe,
    recipe_from_dict,
    recipe_to_toml,
)
from qvl.train.trainer import begun_recipe, check_unclaimed

RECIPE_NAME = "finetune.toml"
ROW_LENGTH = 2048  # at most, as published
ROW_SAMPLES, STEP_ROWS = 4, 4  # a row holds about so many samples, a step so many rows
EPOCHS, LEAST_STEPS = 5, 100
EVALUATIONS = 10
# Full: stage 3's (Table 8). Adapters start as a product of zero that counts alpha / r = 1/4, in few directions; ten
# times the rate of all weights is what they usually get (LoRA, arXiv 2106.09685, appendix D, has more).
PEAK_LR = {"full": 1e-5, "lora": 1e-4, "nf4": 1e-4}


def prepare(
    model_dir: Path,
    data: Path,
    out: Path,
    *,
    images_dir: Path | None = None,
    method: str = "lora",
    epochs: float | None = None,
    ranks: int = 1,
    leave_out_bad: bool = False,
    overrides: tuple[str, ...] = (),
) -> tuple[Path, Account]:
    """Write the samples to out/data and the recipe to out/finetune.toml; that file, and what became of the data.

    `out` is a stage of the folder above it. method: one of PEAK_LR. epochs: 5, or as many as 100 steps take. ranks: at
    most so many can share the samples; a training that has begun keeps its number. For images_dir, leave_out_bad and
    the errors see prepare_dialogues; RecipeError where `out` holds another training.
    """
    config, tokenizer = load_config(model_dir), Tokenizer.from_dir(model_dir)
    if quantization_of(model_dir) is not None and method != "lora":
        raise UsageError(f"{model_dir}: has Int4 matrices; leave --{method} out, and adapters train on them (Q-LoRA)")
    reading = Reading(tokenizer, config.vision.num_queries, min(ROW_LENGTH, config.language.seq_length))
    account = prepare_dialogues(data, out / "data", reading, images_dir=images_dir, leave_out_bad=leave_out_bad)
    rendered = map(reading.render, read_split(out / "data" / TRAIN))
    lengths = [len(sample.input_ids) for sample in rendered if sample is not None]

    def recipe_for(streams: int) -> Recipe:
        recipe = _recipe(model_dir, out, lengths, reading.max_length, method, epochs, streams)
        return recipe_from_dict(json.loads(json.dumps(asdict(recipe))), overrides)

    begun = begun_recipe(out)
    streams = (begun or recipe_for(ranks)).data.streams  # as the overrides may have it
    recipe = recipe_for(streams)
    check_unclaimed(out, recipe)
    if begun and streams * recipe.parallel.tensor % ranks:
        raise UsageError(
            f"--ranks {ranks}: the training in {out} began with {streams} streams of samples, which they can't share "
            f"evenly; give a divisor of {streams}, or begin anew with another --out"
        )
    write_text(out / RECIPE_NAME, recipe_to_toml(recipe))
    return out / RECIPE_NAME, account


def _recipe(
    model_dir: Path, out: Path, lengths: list[int], max_length: int, method: str, epochs: float | None, streams: int
) -> Recipe:
    """lengths: tokens of each sample. Of each stream a step reads as many rows as make STEP_ROWS, or some more."""
    wanted = max(ROW_SAMPLES * sum(lengths) / len(lengths), max(lengths))
    row_length = min(max_length, math.ceil(wanted / 64) * 64)
    accumulation = math.ceil(STEP_ROWS / streams)
    steps = math.ceil((epochs or EPOCHS) * len(pack(lengths, row_length)) / (streams * accumulation))
    if epochs is None:
        steps = max(LEAST_STEPS, steps)
    model, rate = str(model_dir.absolute()), PEAK_LR[method]
    return Recipe(
        name=out.name,
        about=f"Fine-tuning of {model_dir.name}, {len(lengths)} samples: {method}.",
        preset=model,
        objective="next_token",
        init_from=dict.fromkeys(PARTS, model),
        trains=("adapter", "language") if method == "full" else ("language",),
        steps=steps,
        grad_accumulation=accumulation,
        save_every=max(50, steps // 5),
        seed=1,
        data=DataConfig((f"{out.name}/data/{TRAIN}",), {"dialogue": 1.0}, 1, row_length, "isolated", streams),
        optim=OptimConfig(rate, rate / 10, math.ceil(0.03 * steps), vision_layer_decay=1.0),
        lora=None if method == "full" else LoraConfig(quantize="nf4" if method == "nf4" else "no"),
        held_out=HeldOutConfig((f"{out.name}/data/{HELD_OUT}",), max(1, steps // EVALUATIONS)),
    )
