"""What a recipe stands for: its vocabulary, its model at the start, its batches."""

import math
from dataclasses import replace
from pathlib import Path

from qvl.checkpoint.donors import load_part
from qvl.data.loader import Loader
from qvl.errors import RecipeError
from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train.dense import DenseHead, DenseLoader, dense_words
from qvl.train.ranks import ALONE, Ranks
from qvl.train.recipe import Recipe


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The vocabulary that belongs to the recipe's preset."""
    return Tokenizer.tiny() if recipe.preset == "tiny" else Tokenizer.published()


def sized_config(recipe: Recipe) -> QwenVLConfig:
    """The preset at the recipe's size of pictures."""
    if recipe.preset not in PRESETS:
        raise RecipeError(f"preset = {recipe.preset!r}: known presets are {', '.join(PRESETS)}")
    config = PRESETS[recipe.preset]
    try:
        vision = replace(config.vision, image_size=recipe.image_size or config.vision.image_size)
    except ValueError as error:
        raise RecipeError(f"image_size = {recipe.image_size}: {error}") from error
    return replace(config, vision=vision)


def model_config(recipe: Recipe, tokenizer: Tokenizer) -> QwenVLConfig:
    """The same, with the image span's ids and the vocabulary's size taken from the tokenizer."""
    config = sized_config(recipe)
    language = replace(config.language, vocab_size=math.ceil(tokenizer.vocab_size / 128) * 128)
    return replace(config, language=language, image_start_id=tokenizer.special.img_start)


def initial_model(recipe: Recipe, run_dir: Path, tokenizer: Tokenizer) -> QwenVL:
    """A fresh model from the seed, with the parts named in init_from copied from earlier stages or other folders."""
    model = QwenVL(model_config(recipe, tokenizer))
    model.initialize(recipe.seed)
    for part, source in recipe.init_from.items():
        folder = run_dir / source / "checkpoint"
        tensors = load_part(folder if folder.exists() else Path(source), part, model.config)
        model.get_submodule(part).load_state_dict(tensors)
    return model


def build_head(recipe: Recipe, model: QwenVL, tokenizer: Tokenizer) -> DenseHead | None:
    """What reads the labels of the vision warm-up; None in every other stage."""
    if recipe.objective != "dense":
        return None
    words = dense_words(model.language.embedding.weight.cpu(), tokenizer, recipe.seed)
    return DenseHead(model.config.vision, recipe.seed, words)


def build_loader(
    recipe: Recipe, run_dir: Path, config: QwenVLConfig, tokenizer: Tokenizer, ranks: Ranks = ALONE
) -> Loader | DenseLoader:
    """This rank's batches: dense labels of the world for the vision warm-up, else tokens and labels.

    Raises RecipeError where the ranks can't share the batches of a step.
    """
    vision = config.vision
    if recipe.objective == "dense":
        if ranks.data_size > 1:
            raise RecipeError('objective = "dense": the vision warm-up trains on one rank')
        return DenseLoader(run_dir / recipe.data.split_dirs[0], recipe.data.batch_rows, recipe.seed)
    if recipe.data.streams % ranks.data_size:
        raise RecipeError(
            f"data.streams = {recipe.data.streams}: {ranks.data_size} ranks that read samples can't share them evenly; "
            "set a multiple of their number (and divide grad_accumulation to keep the batch)"
        )
    return Loader(
        [run_dir / split for split in recipe.data.split_dirs],
        tokenizer,
        recipe.data.mixture,
        batch_rows=recipe.data.batch_rows,
        row_length=recipe.data.row_length,
        packing=recipe.data.packing,
        loss_by=recipe.loss_by,
        image_size=vision.image_size,
        num_image_tokens=vision.num_queries,
        seed=recipe.seed,
        streams=recipe.data.streams,
        rank=ranks.data_rank,
        ranks=ranks.data_size,
    )
