"""Training steps of the full 9.6B geometry on one GPU, with random weights: memory, seconds, MFU.

    .venv/bin/python benchmarks/gpu_finetuning.py > benchmarks/gpu_finetuning.txt

1. LoRA and Q-LoRA (the published rank, targets and dropout) at 384, 512, 1024 and 2048 tokens, beside the published
   table: one A100-80G, rows of one picture and text, batch 1, accumulation 8, seconds of an optimizer step. "chat"
   trains the low-rank matrices alone, "base" also the embedding and the head; "Int4" and "NF4" are as "chat" on a base
   in four bits.
2. Steps of the paper's three stages in which every parameter of the recipe's parts trains, and of the language model
   alone, at the largest depth that fits: two shallow models say what a layer takes. ViT and language model keep the
   proportion of their depths. Sizes of rows, parts and accumulation are the recipes'.

Steps are the trainer's: its loss, its sums of gradients, its clipping and its optimizer. Memory is the peak of tensors
on the GPU, beside the planner's word. The MFU counts the model's operations over whole optimizer steps, against the
data sheet's peak. Needs qvl[finetune]; without bitsandbytes there is no NF4. `--preset tiny --device cpu` tries the
script where there is no GPU; its numbers say nothing then.
"""

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path

import torch

from qvl.data.loader import Batch
from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.precision import multiplies_bf16
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.layout import to_int4
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.text.tokenizer import Tokenizer
from qvl.train.activations import MicroBatch
from qvl.train.devices import device_reported
from qvl.train.flops import Operations, StepWork, forward_operations, mfu, step_operations
from qvl.train.lora import add_lora
from qvl.train.measure import accumulate, token_measure
from qvl.train.memory import Setup, peak_memory
from qvl.train.optim import build_optimizers, freeze, set_lr
from qvl.train.parallel import gradient_norms, local_gradients, prepare_blocks
from qvl.train.ranks import ALONE
from qvl.train.recipe import LoraConfig, ParallelConfig, Recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
LORA_ACCUMULATION = 8
KINDS = {
    "chat": LoraConfig(train_embeddings="no"),
    "base": LoraConfig(train_embeddings="yes"),
    "Int4": LoraConfig(train_embeddings="no"),
    "NF4": LoraConfig(train_embeddings="no", quantize="nf4"),
}
PUBLISHED = {  # tokens -> (GB, seconds of an optimizer step); the published README's table
    "chat": {384: (23.3, 2.2), 512: (23.6, 2.3), 1024: (25.1, 3.5), 2048: (27.3, 5.9)},
    "base": {384: (37.1, 2.3), 512: (37.3, 2.4), 1024: (38.7, 3.6), 2048: (38.7, 6.1)},
    "Int4": {384: (17.0, 4.2), 512: (17.2, 4.5), 1024: (18.2, 5.5), 2048: (19.3, 7.9)},
}
FILLED = 0.92  # of the GPU's memory: the rest is what the allocator can't use


@dataclass(frozen=True)
class Case:
    """Full-parameter steps: a recipe, the pictures of a row; where not the recipe's, rows of a micro-batch and parts
    that train."""

    name: str
    recipe: str
    images: int
    rows: int | None = None
    trains: tuple[str, ...] | None = None
    compile: bool = False

    def load(self) -> Recipe:
        """The recipe of one stream, which one rank reads."""
        recipe = load_recipe(RECIPES / f"{self.recipe}.toml")
        data = replace(recipe.data, streams=1, batch_rows=self.rows or recipe.data.batch_rows)
        parallel = ParallelConfig(compile=self.compile)
        return replace(recipe, data=data, parallel=parallel, trains=self.trains or recipe.trains)


CASES = (
    Case("stage 1", "pretrain", 1),
    Case("stage 2", "multitask", 4),
    Case("stage 3", "sft", 1),
    Case("language model", "multitask", 0, 2, ("language",)),
    Case("language model, compiled", "multitask", 0, 2, ("language",), compile=True),
)


@dataclass(frozen=True)
class Measured:
    """Of an optimizer step. peak: bytes on the GPU, 0 on the CPU."""

    seconds: float
    peak: int


def random_batch(config: QwenVLConfig, rows: int, tokens: int, images: int) -> Batch:
    """Rows of full length, each one document: pictures at equal distances, text that carries loss between them."""
    ids = torch.randint(config.image_start_id, (rows, tokens))
    labels = ids.clone()
    span = config.vision.num_queries + 2
    for number in range(images):
        start = number * tokens // images
        labels[:, start : start + span] = IGNORE_INDEX
        ids[:, start], ids[:, start + span - 1] = config.image_start_id, config.image_end_id
    side = config.vision.image_size
    pixels = torch.randint(256, (rows * images, 3, side, side), dtype=torch.uint8)
    return Batch(ids, labels, torch.zeros_like(ids), pixels, None, ())


def supervised(batch: Batch) -> int:
    """Tokens with a loss."""
    return int((batch.labels[:, 1:] != IGNORE_INDEX).sum())


def work_of(batch: Batch) -> StepWork:
    return StepWork(len(batch.pixels), batch.document_lengths, supervised(batch))


def random_model(config: QwenVLConfig, dtype: torch.dtype, device: str) -> QwenVL:
    """Made on the device, with small random weights."""
    with torch.device("meta"):
        model = QwenVL(config).to(dtype)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model.train()


def adapted_model(config: QwenVLConfig, kind: str, device: str, dtype: torch.dtype = torch.bfloat16) -> QwenVL:
    """A base of this type, or one in four bits, with fresh adapters."""
    model = random_model(config, dtype, device)
    if kind == "Int4":
        to_int4(model)
    add_lora(model, KINDS[kind], ("language",), Tokenizer.tiny().special, dtype, device)
    return model


def lora_operations(config: QwenVLConfig, work: StepWork, embeddings: bool) -> Operations:
    """ViT and adapter forward alone; gradients go through the language model, and into its head where that trains."""
    forward = forward_operations(config, work)
    through = step_operations(config, ("adapter",), work)
    whole = step_operations(config, ("language",), work)
    return replace(forward, language=through.language, head=(whole if embeddings else through).head)


def measure(
    model: QwenVL,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Batch,
    recipe: Recipe,
    device: str,
    steps: int,
) -> Measured:
    """Mean time of `steps` optimizer steps after one to warm up, and their peak."""
    trained = [p for p in model.parameters() if p.requires_grad]
    loss_of = token_measure(model, recipe, device)

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        seen = accumulate(repeat((batch, {})), loss_of, recipe, model, ALONE)
        gradients = local_gradients(trained)
        torch._foreach_div_(gradients, seen.weight)
        norm = torch.linalg.vector_norm(gradient_norms(trained, ALONE))
        torch._foreach_mul_(gradients, torch.clamp(recipe.optim.grad_clip / (norm + 1e-6), max=1.0))
        for optimizer in optimizers:
            optimizer.step()

    step()
    _wait(device)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    seconds = (time.perf_counter() - start) / steps
    return Measured(seconds, torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def at_depth(config: QwenVLConfig, layers: int) -> QwenVLConfig:
    """So many language layers, and ViT layers in proportion."""
    vision, language = config.vision, config.language
    vision_layers = max(1, round(vision.layers * layers / language.num_layers))
    return replace(config, vision=replace(vision, layers=vision_layers), language=replace(language, num_layers=layers))


def largest_depth(shallow: int, peaks: tuple[int, int], room: float, deepest: int) -> int:
    """The most layers up to `deepest` of which a step takes `room` bytes; peaks: of `shallow` layers and of twice as
    many."""
    layer = (peaks[1] - peaks[0]) / shallow
    return min(deepest, shallow + math.floor((room - peaks[0]) / layer))


def print_lora(config: QwenVLConfig, lengths: Sequence[int], device: str, steps: int, peak_flops: float | None) -> None:
    """A line for each kind and length."""
    print("LoRA tokens       GB   s/step     MFU   published GB, s/step (A100-80G)")
    for kind, lora in KINDS.items():
        if lora.quantize == "nf4" and find_spec("bitsandbytes") is None:
            print(f"{kind:5}needs bitsandbytes, which is not here", flush=True)
            continue
        for tokens in lengths:
            line = f"{kind:5}{tokens:7}"
            measured = unless_full(partial(run_lora, config, kind, tokens, device, steps), device)
            if measured is None:
                print(f"{line}  does not fit", flush=True)
                continue
            work = work_of(random_batch(config, 1, tokens, 1))
            operations = LORA_ACCUMULATION * lora_operations(config, work, kind == "base").total
            line += f"{measured.peak / 1e9:9.1f}{measured.seconds:9.2f}{_mfu(operations, measured, peak_flops)}"
            if tokens in PUBLISHED.get(kind, {}):
                memory, seconds = PUBLISHED[kind][tokens]
                line += f"{memory:12.1f}{seconds:9.1f}"
            print(line, flush=True)


def run_lora(config: QwenVLConfig, kind: str, tokens: int, device: str, steps: int) -> Measured:
    """Steps of one row with one picture."""
    narrow = multiplies_bf16(torch.device(device).type)
    model = adapted_model(config, kind, device, torch.bfloat16 if narrow else torch.float32)
    recipe = replace(Case(kind, "sft", 1).load(), grad_accumulation=LORA_ACCUMULATION)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    return measure(model, [optimizer], random_batch(config, 1, tokens, 1), recipe, device, steps)


def print_stages(preset: QwenVLConfig, tokens: int | None, device: str, steps: int, peak_flops: float | None) -> None:
    """A line for each case; tokens: of a row, else the recipe's."""
    print("\nfull parameters            layers (ViT)  trained     tokens       GB  planned   s/step  tokens/s     MFU")
    for case in CASES:
        layers, measured = run_deepest(case, preset, tokens, device, steps)
        if measured is None:
            print(f"{case.name:25}  does not fit", flush=True)
        else:
            print(stage_line(case, preset, layers, tokens, measured, peak_flops, device), flush=True)


def run_deepest(
    case: Case, preset: QwenVLConfig, tokens: int | None, device: str, steps: int
) -> tuple[int, Measured | None]:
    """Language layers of the deepest model that fits, and its steps; on the CPU the whole depth is taken."""

    def run(case: Case, layers: int, steps: int) -> Measured | None:
        return unless_full(partial(run_case, case, preset, layers, tokens, device, steps), device)

    layers = preset.language.num_layers
    if device.startswith("cuda"):
        shallow, plain = max(1, layers // 16), replace(case, compile=False)
        first, second = run(plain, shallow, 1), run(plain, 2 * shallow, 1)
        if first is None or second is None:
            layers = shallow
        else:
            room = FILLED * torch.cuda.get_device_properties(device).total_memory
            layers = largest_depth(shallow, (first.peak, second.peak), room, layers)
    measured = None
    while layers > 0 and (measured := run(case, layers, steps)) is None:
        layers -= 1
    return layers, measured


def run_case(case: Case, preset: QwenVLConfig, layers: int, tokens: int | None, device: str, steps: int) -> Measured:
    """Steps of a model with so many language layers."""
    recipe = case.load()
    model = random_model(case_config(case, preset, layers), torch.float32, device)
    freeze(model, recipe.trains)
    prepare_blocks(model, recipe.parallel)
    optimizers = build_optimizers(model, recipe.optim)
    set_lr(optimizers, recipe.optim.min_lr)
    return measure(model, optimizers, case_batch(case, model.config, tokens), recipe, device, steps)


def case_config(case: Case, preset: QwenVLConfig, layers: int) -> QwenVLConfig:
    """The preset at a depth, with the recipe's pictures, none larger than the preset's; a ViT that no picture reaches
    keeps one layer."""
    config = at_depth(preset, layers)
    side = case.load().image_size or preset.vision.image_size
    vision = replace(config.vision, image_size=min(side, preset.vision.image_size))
    return replace(config, vision=vision if case.images else replace(vision, layers=1))


def case_batch(case: Case, config: QwenVLConfig, tokens: int | None) -> Batch:
    """A micro-batch."""
    data = case.load().data
    return random_batch(config, data.batch_rows, tokens or data.row_length, case.images)


def planned(case: Case, config: QwenVLConfig, batch: Batch, on_cpu: bool) -> float:
    """The planner's bytes of that step."""
    size = MicroBatch(*batch.input_ids.shape, len(batch.pixels), supervised(batch))
    setup = Setup(case.load().trains, ParallelConfig(), accumulates=True, on_cpu=on_cpu)
    return peak_memory(config, size, setup).total


def stage_line(
    case: Case,
    preset: QwenVLConfig,
    layers: int,
    tokens: int | None,
    measured: Measured,
    peak_flops: float | None,
    device: str,
) -> str:
    """What ran, what it took, what of the GPU it used."""
    recipe, config = case.load(), case_config(case, preset, layers)
    batch = case_batch(case, config, tokens)
    work = work_of(batch)
    read = recipe.grad_accumulation * sum(work.documents)
    operations = recipe.grad_accumulation * step_operations(config, recipe.trains, work).total
    with torch.device("meta"):
        model = QwenVL(config)
    freeze(model, recipe.trains)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    depth = f"{layers} ({config.vision.layers if case.images else '-'})"
    memory = f"{measured.peak / 1e9:9.1f}{planned(case, config, batch, device == 'cpu') / 1e9:9.1f}"
    return (
        f"{case.name:25}{depth:>14}{trained / 1e9:8.2f}B{read:11,}{memory}{measured.seconds:9.2f}"
        f"{read / measured.seconds:10.0f}{_mfu(operations, measured, peak_flops)}"
    )


def unless_full(run: Callable[[], Measured], device: str) -> Measured | None:
    """None where the GPU's memory did not suffice; what the run held is given back."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.empty_cache()


def _mfu(operations: float, measured: Measured, peak_flops: float | None) -> str:
    return f"{100 * mfu(operations, measured.seconds, 1, peak_flops):7.1f}%" if peak_flops else f"{'-':>8}"


def matrix_rate(device: str, size: int = 8192, times: int = 20) -> float:
    """FLOP/s of one large product in bf16: what is to be had of the peak."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    _wait(device)
    start = time.perf_counter()
    for _ in range(times):
        a @ b
    _wait(device)
    return 2 * size**3 * times / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training steps of the full geometry on one GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="qwen-vl", choices=PRESETS)
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps that are timed (3)")
    parser.add_argument("--tokens", type=int, help="of every row (else the published lengths and the recipes')")
    args = parser.parse_args(arguments)
    on_gpu = args.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured. Try the script with --device cpu --preset tiny --tokens 128")
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(args.device) if on_gpu else "CPU (no measurement)"
    known = device_reported(name)
    peak_flops = known.peak_flops if known else None
    print(f"{name}, torch {torch.__version__}, preset {args.preset}")
    if on_gpu:
        print(f"a product of 8192 x 8192 matrices in bf16: {matrix_rate(args.device) / 1e12:.0f} TFLOP/s")
    preset = PRESETS[args.preset]
    lengths = [args.tokens] if args.tokens else list(PUBLISHED["chat"])
    print_lora(preset, lengths, args.device, args.steps, peak_flops)
    print_stages(preset, args.tokens, args.device, args.steps, peak_flops)


if __name__ == "__main__":
    main()
