"""Speed of the tiny recipe on this machine: training steps of each stage, and generation.

    .venv/bin/python benchmarks/tiny.py > benchmarks/tiny.txt

Training speed is that of whole optimizer steps in the recipe's own batches, as the loader gives them; waiting is
what of a step passed before its batch was there. Generation stands beside its peer in the same process: recomputing
the whole sequence for each token.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from qvl.data.sample import LANGUAGES, TASKS, write_shard
from qvl.data.world.build import write_dense
from qvl.data.world.tasks import make_sample
from qvl.generate.engine import Engine
from qvl.generate.request import Request
from qvl.model.config import PRESETS
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.render import render_prompt
from qvl.text.tokenizer import Tokenizer
from qvl.train.measure import Seen, accumulate, dense_measure, token_measure
from qvl.train.optim import build_optimizers, freeze, set_lr
from qvl.train.ranks import ALONE
from qvl.train.recipe import load_recipe
from qvl.train.stage import build_head, build_loader, model_config

RECIPES = Path(__file__).parents[1] / "recipes" / "tiny"
STAGES = ("warmup_text", "warmup_vision", "pretrain", "multitask", "sft")
STEPS = 20


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Mean time of a call, after one to warm up."""
    work()
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    return (time.perf_counter() - start) / repeat


def product_speed(dtype: torch.dtype) -> float:
    """FLOP/s of one 2048 x 2048 x 2048 product."""
    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    return 2 * 2048**3 / seconds(lambda: a @ b, 10)


def small_run(folder: Path) -> Path:
    """A run folder with a little of everything."""
    samples = [
        make_sample(1, "train", i, task, language) for task in TASKS for language in LANGUAGES for i in range(40)
    ]
    write_shard(samples, folder / "world" / "train" / "00000.parquet")
    write_dense(folder / "world" / "dense", 1, 128, PRESETS["tiny"].vision.grid, workers=1)
    return folder


def stage_speed(stage: str, run_dir: Path, tokenizer: Tokenizer) -> tuple[float, float, int, int]:
    """(seconds of an optimizer step, seconds of waiting in it, samples, tokens), means of STEPS steps."""
    split = "world/dense" if stage == "warmup_vision" else "world/train"
    recipe = load_recipe(RECIPES / f"{stage}.toml", [f'data.split_dirs=["{split}"]'])
    model = QwenVL(model_config(recipe, tokenizer)).train()
    model.initialize(0)
    freeze(model, recipe.trains)
    optimizers = build_optimizers(model, recipe.optim)
    set_lr(optimizers, 1e-4)
    head = build_head(recipe, model, tokenizer)
    measure = dense_measure(model, head, recipe, "cpu") if head is not None else token_measure(model, recipe, "cpu")
    batches = iter(build_loader(recipe, run_dir, model.config, tokenizer))

    def step() -> Seen:
        seen = accumulate(batches, measure, recipe, model, ALONE)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return seen

    step()
    start = time.perf_counter()
    done = [step() for _ in range(STEPS)]
    taken = (time.perf_counter() - start) / STEPS
    waited = sum(seen.waited_s for seen in done) / STEPS
    return taken, waited, sum(seen.samples for seen in done) // STEPS, sum(seen.tokens for seen in done) // STEPS


def main() -> None:
    tokenizer = Tokenizer.tiny()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    speeds = [product_speed(dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)]
    print(f"one large product: float32 {speeds[0]:.0f}, bf16 {speeds[1]:.0f} GFLOP/s\n")
    print("training            samples/s   tokens/s   ms/step   waiting")
    with tempfile.TemporaryDirectory() as folder:
        run_dir = small_run(Path(folder))
        for stage in STAGES:
            taken, waited, samples, tokens = stage_speed(stage, run_dir, tokenizer)
            print(f"{stage:18} {samples / taken:10.0f} {tokens / taken:10.0f} {1000 * taken:9.0f} {1000 * waited:9.1f}")
    print("\ngeneration of 64 tokens after one picture")
    print_generation(tokenizer)


def print_generation(tokenizer: Tokenizer) -> None:
    """Tokens/s for batches of 1 and 32, from the cache and recomputed."""
    model = QwenVL(model_config(load_recipe(RECIPES / "sft.toml"), tokenizer)).eval()
    model.initialize(0)
    sample = make_sample(1, "test", 0, "caption", "en")
    turns = [(turn.role, turn.content) for turn in sample.turns]
    prompt = render_prompt(turns, "caption", tokenizer, model.config.vision.num_queries).input_ids
    side = model.config.vision.image_size
    new_tokens = 64
    for rows in (1, 32):
        pictures = torch.randn(rows, 3, side, side)

        def cached(rows: int = rows, pictures: torch.Tensor = pictures) -> object:
            engine = Engine(model, max_rows=rows, max_tokens=len(prompt) + new_tokens)
            return engine.run([Request(prompt, [picture], new_tokens) for picture in pictures])

        def recomputed(rows: int = rows, pictures: torch.Tensor = pictures) -> object:
            ids = torch.tensor([prompt] * rows)
            with torch.inference_mode():
                for _ in range(new_tokens):
                    hidden = model.hidden_states(ids, pictures)
                    logits = model.language.head(hidden[:, -1])
                    logits[:, model.config.image_start_id :] = -torch.inf  # an untrained model may open a picture
                    token = logits.argmax(-1)
                    ids = torch.cat((ids, token[:, None]), dim=1)
            return ids

        with fast_kernels("cpu"):
            fast, slow = seconds(cached, 3), seconds(recomputed, 1)
        speed = rows * new_tokens / fast
        print(f"batch {rows:3}: {speed:8.0f} tokens/s from the cache, {slow / fast:5.1f} times recomputing")


if __name__ == "__main__":
    main()
