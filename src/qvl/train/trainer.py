"""A recipe -> a trained stage: the loop, its checkpoints and how it resumes."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvl.checkpoint.layout import CONFIG_NAME, load_model, save_model
from qvl.checkpoint.state import latest_state, save_state
from qvl.data.loader import Batch, Loader, State, lost
from qvl.errors import DataError, RecipeError
from qvl.files import write_text
from qvl.images import normalize
from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train.dense import DenseHead, DenseLoader, dense_words
from qvl.train.optim import build_optimizers, freeze, lr_at, set_lr
from qvl.train.recipe import Recipe, load_recipe
from qvl.train.telemetry import Telemetry

RECIPE_NAME = "recipe.json"
SHARDS_NAME = "shards.txt"  # the fingerprint of what the stage reads


@dataclass(frozen=True)
class Measured:
    """Of one micro-batch: loss summed over what is supervised, its weight, samples, tokens."""

    loss_sum: Tensor
    weight: float
    samples: int
    tokens: int


def run_recipe(
    path: Path, overrides: list[str] | None = None, out: Path = Path("runs/tiny"), device: str = "cpu"
) -> Path:
    """Train one stage into `out/NAME` and return that folder.

    Starts again where a killed run was; a finished stage is left as it is. Raises RecipeError when the folder
    holds a run of the same name with other values.
    """
    recipe = load_recipe(path, overrides)
    stage_dir = out / recipe.name
    _check_unclaimed(stage_dir, recipe)
    if (stage_dir / "checkpoint" / CONFIG_NAME).exists():
        return stage_dir
    tokenizer = tokenizer_of(recipe)
    model = initial_model(recipe, out, tokenizer).to(device)
    loader = build_loader(recipe, out, model.config, tokenizer)
    # Only now: a stage without its data or its start leaves nothing behind.
    if isinstance(loader, Loader):
        check_shards(stage_dir, loader)
        write_text(stage_dir / SHARDS_NAME, loader.shards)
    write_text(stage_dir / RECIPE_NAME, _as_json(recipe))
    _note_stage(out, recipe.name)
    head = build_head(recipe, model, tokenizer)
    train(model, head, loader, recipe, stage_dir, device)
    save_model(model, stage_dir / "checkpoint", tokenizer)
    return stage_dir


def _as_json(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), indent=2, ensure_ascii=False)


def _check_unclaimed(stage_dir: Path, recipe: Recipe) -> None:
    """A folder made by another recipe is not touched."""
    path = stage_dir / RECIPE_NAME
    if path.exists():
        before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(_as_json(recipe))
        if changed := ", ".join(key for key in now if before.get(key) != now[key]):
            raise RecipeError(
                f"{stage_dir}: holds a run with another {changed}; give another --out or delete that folder"
            )


def check_shards(stage_dir: Path, loader: Loader) -> None:
    """DataError where the shards are not those that the stage began with: the order would be another."""
    path = stage_dir / SHARDS_NAME
    if path.exists() and path.read_text(encoding="utf-8") != loader.shards:
        raise DataError(
            f"{stage_dir}: began with other shards than lie in its data.split_dirs now (their names, sizes or rows "
            "differ): put those back, or delete that folder and train anew"
        )


def _note_stage(run_dir: Path, name: str) -> None:
    """Keep the order in which the stages ran in run.json, for the report."""
    path = run_dir / "run.json"
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.exists() else []
    if name not in stages:
        write_text(path, json.dumps({"stages": [*stages, name]}))


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The vocabulary that belongs to the recipe's preset."""
    return Tokenizer.tiny() if recipe.preset == "tiny" else Tokenizer.published()


def model_config(recipe: Recipe, tokenizer: Tokenizer) -> QwenVLConfig:
    """The preset with the recipe's own sizes, and the image span's ids and the vocabulary's size of the tokenizer."""
    if recipe.preset not in PRESETS:
        raise RecipeError(f"preset = {recipe.preset!r}: known presets are {', '.join(PRESETS)}")
    config = PRESETS[recipe.preset]
    vocab_rows = math.ceil(tokenizer.vocab_size / 128) * 128
    sizes = {name: getattr(recipe, name) for name in ("image_size", "num_queries", "attention_window")}
    given = {name: value for name, value in sizes.items() if value is not None}
    try:
        vision = replace(config.vision, **given)
    except ValueError as error:
        shown = ", ".join(f"{name} = {value}" for name, value in given.items())
        raise RecipeError(f"{shown}: {error}") from error
    language = replace(config.language, vocab_size=vocab_rows)
    return replace(config, vision=vision, language=language, image_start_id=tokenizer.special.img_start)


def initial_model(recipe: Recipe, run_dir: Path, tokenizer: Tokenizer) -> QwenVL:
    """A fresh model from the seed, with the parts named in init_from copied from earlier stages."""
    model = QwenVL(model_config(recipe, tokenizer))
    model.initialize(recipe.seed)
    for part, source in recipe.init_from.items():
        folder = run_dir / source / "checkpoint"
        donor = load_model(folder if folder.exists() else Path(source))
        target = model.get_submodule(part)
        target.load_state_dict(donor.get_submodule(part).state_dict())
    return model


def train(
    model: QwenVL,
    head: DenseHead | None,
    loader: "Loader | DenseLoader",
    recipe: Recipe,
    stage_dir: Path,
    device: str,
) -> None:
    """The loop: accumulate, clip, step, log, save. Bit-exact on resume on the CPU."""
    freeze(model, recipe.trains)
    if head is not None:
        head = head.to(device)
    optimizers = build_optimizers(model, recipe.optim)
    if head is not None:
        optimizers[0].add_param_group({"params": list(head.parameters()), "lr_scale": 1.0})
    first_step = _resume(stage_dir, model, optimizers, head, loader)
    measure = dense_measure(model, head, device) if head is not None else token_measure(model, device)
    trainable = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    batches = iter(loader)
    model.train()
    with Telemetry(stage_dir, recipe.name, recipe.steps, first_step) as telemetry:
        for step in range(first_step, recipe.steps):
            set_lr(optimizers, lr := lr_at(step, recipe.steps, recipe.optim))
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            values, loader_state = _accumulate(batches, measure, recipe.batches_per_step, trainable)
            norm = torch.nn.utils.clip_grad_norm_(trainable, recipe.optim.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
            telemetry.step(step, lr=lr, grad_norm=round(float(norm), 4), **values)
            if (step + 1) % recipe.save_every == 0 and step + 1 < recipe.steps:
                extra = {
                    "loader": loader_state,
                    "head": head.state_dict() if head is not None else None,
                }
                states = {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}
                save_state(stage_dir / "state", step + 1, model.state_dict(), states, extra)
    model.eval()
    if isinstance(loader, Loader) and any(counts := lost(loader_state)):
        print(
            f"{recipe.name}: left out {counts[0]} times a sample longer than a row of {recipe.data.row_length} tokens; "
            f"{counts[1]} dialogues lost their last turns"
        )
    if head is not None and isinstance(loader, DenseLoader):
        (pixels, labels), _ = next(iter(loader))
        with fast_kernels(device):
            features = model.vision(normalize(pixels.to(device)))
            named = head.accuracy(features, model.adapter(features), labels.to(device))
        print("patches named right: " + ", ".join(f"{name} {share:.0%}" for name, share in named.items()))


def build_head(recipe: Recipe, model: QwenVL, tokenizer: Tokenizer) -> DenseHead | None:
    """What reads the labels of the vision warm-up; None in every other stage."""
    if recipe.objective != "dense":
        return None
    words = dense_words(model.language.embedding.weight.cpu(), tokenizer, recipe.seed)
    return DenseHead(model.config.vision, recipe.seed, words)


def build_loader(recipe: Recipe, run_dir: Path, config: QwenVLConfig, tokenizer: Tokenizer) -> "Loader | DenseLoader":
    """The stage's batches: dense labels of the world for the vision warm-up, else tokens and labels."""
    vision = config.vision
    if recipe.objective == "dense":
        return DenseLoader(run_dir / recipe.data.split_dirs[0], recipe.data.batch_rows, recipe.seed)
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
    )


def token_measure(model: QwenVL, device: str) -> Callable[[Batch], Measured]:
    """Next-token cross-entropy of a batch; packed documents don't see each other."""

    def measure(batch: Batch) -> Measured:
        pixels = None if batch.pixels is None else normalize(batch.pixels.to(device))
        weights = None if batch.loss_weights is None else batch.loss_weights.to(device)
        ids, labels, documents = (t.to(device) for t in (batch.input_ids, batch.labels, batch.document_ids))
        with fast_kernels(device):
            loss_sum, weight = model.loss(
                ids, labels, pixel_values=pixels, document_ids=documents, loss_weights=weights
            )
        return Measured(loss_sum, float(weight), len(batch.sample_ids), batch.num_tokens)

    return measure


def dense_measure(model: QwenVL, head: DenseHead, device: str) -> Callable[[tuple[Tensor, Tensor]], Measured]:
    """The vision warm-up's loss: what lies under each patch."""

    def measure(batch: tuple[Tensor, Tensor]) -> Measured:
        pixels, labels = normalize(batch[0].to(device)), batch[1].to(device)
        with fast_kernels(device):
            features = model.vision(pixels)  # (N, P, width)
            # Detached: the adapter's reading must not bend the ViT (letters named: 65%, else 45%).
            loss = head.loss(features, model.adapter(features.detach()), labels)
        return Measured(loss * len(pixels), len(pixels), len(pixels), features.shape[0] * features.shape[1])

    return measure


def _accumulate(
    batches: Iterator[tuple[Any, State]],
    measure: Callable[[Any], Measured],
    micro_batches: int,
    trainable: list[Tensor],
) -> tuple[dict[str, Any], State]:
    """Gradients of the mean over everything supervised in the micro-batches of one step."""
    loss_sum, weight, samples, tokens = 0.0, 0.0, 0, 0
    for _ in range(micro_batches):
        batch, state = next(batches)
        measured = measure(batch)
        measured.loss_sum.backward()
        loss_sum += float(measured.loss_sum.detach())
        weight += measured.weight
        samples += measured.samples
        tokens += measured.tokens
    for param in trainable:
        if param.grad is not None:
            param.grad.div_(weight or 1.0)
    return {"loss": loss_sum / (weight or 1.0), "samples": samples, "tokens": tokens}, state


def _resume(
    stage_dir: Path,
    model: QwenVL,
    optimizers: list[torch.optim.Optimizer],
    head: DenseHead | None,
    loader: "Loader | DenseLoader",
) -> int:
    """Put everything back where the newest saved state left it; the step to go on with."""
    saved = latest_state(stage_dir / "state")
    if saved is None:
        return 0
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(optimizers, saved["optimizer"]["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    if head is not None:
        head.load_state_dict(saved["extra"]["head"])
    loader.resume(saved["extra"]["loader"])
    return int(saved["step"])
