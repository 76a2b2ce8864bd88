"""What each rank of tests/train/test_ranks.py runs: the same training under several ways of sharing the work.

torchrun ... rank_worker.py RUN_DIR OUT TENSOR NAME:SHARD... [KEY=VALUE...]
"""

import sys
from dataclasses import replace
from pathlib import Path

from qvl.checkpoint import save_model
from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.tokenizer import Tokenizer
from qvl.train.parallel import parallelize, prepare_blocks, whole_model
from qvl.train.ranks import Ranks, joined
from qvl.train.recipe import Recipe, load_recipe
from qvl.train.stage import build_loader
from qvl.train.trainer import train

RECIPE = Path(__file__).parents[2] / "recipes" / "tiny" / "multitask.toml"
STEPS = 50
VALUES = [
    f"steps={STEPS}",
    "save_every=20",
    "precision=float32",
    "data.batch_rows=1",
    "data.streams=4",
    "grad_accumulation=2",
    "data.split_dirs=['world/train']",
    "data.mixture={text = 1.0, vqa = 1.0, ocr = 0.5}",  # batches without any picture beside those with
    "optim.optimizer=adamw",
    "optim.warmup_steps=5",
]


def small_config(tokenizer: Tokenizer) -> QwenVLConfig:
    """The tiny preset with a tenth of its work: what sharing adds to every block is most of a step here."""
    tiny = PRESETS["tiny"]
    vision = replace(tiny.vision, width=48, layers=1, heads=4, output_dim=64, adapter_head_size=32, mlp_ratio=2.0)
    language = replace(tiny.language, hidden_size=64, num_layers=2, num_heads=4, intermediate_size=128)
    return replace(tiny, vision=vision, language=language, image_start_id=tokenizer.special.img_start)


def run(run_dir: Path, out: Path, recipe: Recipe, ranks: Ranks, device: str) -> None:
    """Train one way into OUT/NAME."""
    tokenizer = Tokenizer.tiny()
    config = small_config(tokenizer)
    model = QwenVL(config)
    model.initialize(recipe.seed)
    if ranks.mesh is not None:
        model = parallelize(model if ranks.is_first else None, config, ranks, recipe, device)
    else:
        prepare_blocks(model, recipe.parallel)
    folder = out / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    train(model, None, build_loader(recipe, run_dir, config, tokenizer, ranks), recipe, folder, device, ranks)
    trained = whole_model(model, ranks)
    if trained is not None:
        save_model(trained, folder / "checkpoint", tokenizer)


def main(run_dir: str, out: str, tensor: str, *arguments: str) -> None:
    """Train every WAY in turn; other arguments change the recipe."""
    ways = [argument.split(":") for argument in arguments if ":" in argument]
    values = [argument for argument in arguments if ":" not in argument]
    with joined("cpu", int(tensor)) as (ranks, device):
        for name, shard in ways:
            own = [f"name={name}", f"parallel.shard={shard}", f"parallel.tensor={tensor}"]
            run(Path(run_dir), Path(out), load_recipe(RECIPE, [*VALUES, *own, *values]), ranks, device)


if __name__ == "__main__":
    main(*sys.argv[1:])
