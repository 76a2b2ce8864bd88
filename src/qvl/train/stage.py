"""What a recipe stands for: its vocabulary, its model at the start, its batches."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from qvl.checkpoint.donors import load_part
from qvl.checkpoint.layout import CONFIG_NAME, load_config, quantization_of, save_model
from qvl.data.loader import Loader
from qvl.errors import RecipeError
from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.layout import load_any
from qvl.text.tokenizer import Tokenizer
from qvl.train import lora
from qvl.train.dense import DenseHead, DenseLoader, dense_words
from qvl.train.ranks import ALONE, Ranks
from qvl.train.recipe import PARTS, Recipe

CHECKPOINT, ADAPTER = "checkpoint", "adapter"  # what a finished stage leaves


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The vocabulary that belongs to the recipe's preset."""
    if recipe.preset not in PRESETS:
        return Tokenizer.from_dir(_checkpoint_of(recipe))
    return Tokenizer.tiny() if recipe.preset == "tiny" else Tokenizer.published()


def _checkpoint_of(recipe: Recipe) -> Path:
    """The folder that the preset names. RecipeError where it is none."""
    folder = Path(recipe.preset)
    if not (folder / CONFIG_NAME).exists():
        known = ", ".join(PRESETS)
        raise RecipeError(f"preset = {recipe.preset!r}: neither a checkpoint folder nor a known preset ({known})")
    return folder


def sized_config(recipe: Recipe) -> QwenVLConfig:
    """The preset, or the config of the checkpoint folder that it names, with the recipe's own sizes."""
    config = PRESETS[recipe.preset] if recipe.preset in PRESETS else load_config(_checkpoint_of(recipe))
    sizes = {name: getattr(recipe, name) for name in ("image_size", "num_queries", "attention_window")}
    given = {name: value for name, value in sizes.items() if value is not None}
    try:
        vision = replace(config.vision, **given)
    except ValueError as error:
        shown = ", ".join(f"{name} = {value}" for name, value in given.items())
        raise RecipeError(f"{shown}: {error}") from error
    return replace(config, vision=vision)


def model_config(recipe: Recipe, tokenizer: Tokenizer) -> QwenVLConfig:
    """The same; a preset takes the image span's ids and the vocabulary's size from the tokenizer."""
    config = sized_config(recipe)
    if recipe.preset not in PRESETS:
        return config
    language = replace(config.language, vocab_size=math.ceil(tokenizer.vocab_size / 128) * 128)
    return replace(config, language=language, image_start_id=tokenizer.special.img_start)


def initial_model(recipe: Recipe, run_dir: Path, tokenizer: Tokenizer) -> QwenVL:
    """A fresh model from the seed, with the parts named in init_from taken from earlier stages or other folders."""
    config = model_config(recipe, tokenizer)
    folders = {_folder_of(source, run_dir) for source in recipe.init_from.values()}
    if len(folders) == 1 and len(recipe.init_from) == len(PARTS):  # a whole model, as it is
        [folder] = folders
        if recipe.lora is None and quantization_of(folder) is not None:
            raise RecipeError(f"init_from: {folder} has Int4 matrices, which can't train; add [lora]")
        # A base is frozen: ranks that each load it have its pages in common, not a float32 copy each.
        model = load_any(folder, None if recipe.lora else torch.float32)
        vision = replace(model.config.vision, image_size=config.vision.image_size)
        if replace(model.config, vision=vision) == config:
            model.config = config
            return model
    model = QwenVL(config)
    model.initialize(recipe.seed)
    for part, source in recipe.init_from.items():
        model.get_submodule(part).load_state_dict(load_part(_folder_of(source, run_dir), part, config))
    return model


def _folder_of(source: str, run_dir: Path) -> Path:
    folder = run_dir / source / CHECKPOINT
    return folder if folder.exists() else Path(source)


def add_adapters(model: QwenVL, recipe: Recipe, tokenizer: Tokenizer, device: str) -> None:
    """Where the recipe has [lora]: fresh adapters, and only they (with embedding and head, maybe) train."""
    if recipe.lora is None:
        return
    torch.manual_seed(recipe.seed)
    half = recipe.precision == "bf16" and device != "cpu"
    frozen = torch.bfloat16 if half else torch.float32
    lora.add_lora(model, recipe.lora, recipe.trains, tokenizer.special, frozen, device)


def result_name(recipe: Recipe) -> str:
    """The folder that a finished stage leaves in its own."""
    return ADAPTER if recipe.lora else CHECKPOINT


def is_saved(result: Path) -> bool:
    """Whether a stage's result is there, whole."""
    return (result / CONFIG_NAME).exists() or (result / lora.CONFIG_NAME).exists()


def save_result(model: QwenVL, folder: Path, recipe: Recipe, run_dir: Path, tokenizer: Tokenizer) -> None:
    """The adapters alone, or a complete checkpoint folder."""
    if recipe.lora is None:
        save_model(model, folder, tokenizer)
    else:
        [source] = set(recipe.init_from.values())
        lora.save_adapter(model, folder, recipe.lora, str(_folder_of(source, run_dir).absolute()))


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
