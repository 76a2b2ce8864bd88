"""Recipes of every kind of fine-tuning, small: for tests that hold two ways of running them to each other."""

from pathlib import Path

from qvl.train.recipe import Recipe, load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "multitask.toml"
PARTS = ("vision", "adapter", "language")
# Dropout is off: each rank draws its own.
KINDS = {
    "plain": ["lora={r=4, alpha=8, dropout=0.0}", f"trains={list(PARTS)}"],  # embedding and head train too
    "nf4": ['lora={r=4, alpha=8, dropout=0.0, quantize="nf4", train_embeddings="no"}', 'trains=["language"]'],
    "gptq": ['lora={r=4, alpha=8, dropout=0.0, train_embeddings="no"}', 'trains=["language"]'],
    "full": ['trains=["adapter", "language"]'],
}


def recipe_of(kind: str, base: Path) -> Recipe:
    values = [
        f"name={kind}",
        f"preset={base}",
        *(f"init_from.{part}={base}" for part in PARTS),
        "steps=10",
        "save_every=4",
        "precision=float32",
        "grad_accumulation=2",
        "data.batch_rows=1",
        "data.streams=2",
        "data.split_dirs=['world/train']",
        "data.mixture={text = 1.0, vqa = 1.0, ocr = 0.5}",  # batches without any picture beside those with
        "optim.optimizer=adamw",
        "optim.warmup_steps=2",
        "held_out={split_dirs=['world/train'], every=5, samples=5}",  # which two ranks can't share evenly
    ]
    return load_recipe(RECIPE, [*values, *KINDS[kind]])
