"""Training steps of the full 9.6B geometry on one GPU, with random weights: memory, seconds, MFU.

    .venv/bin/python benchmarks/gpu_finetuning.py > benchmarks/gpu_finetuning.txt

1. LoRA (the published rank, targets and dropout) at 384, 512, 1024 and 2048 tokens, beside the published table: one
   A100-80G, rows of one picture and text, batch 1, accumulation 8, seconds of an optimizer step. "chat" trains the
   low-rank matrices alone, "base" also the embedding and the head.
2. Steps of the paper's three stages in which every parameter of the recipe's parts trains, and of the language model
   alone, at the largest depth that fits: two shallow models say what a layer takes. ViT and language model keep the
   proportion of their depths. Sizes of rows, parts, optimizer and accumulation are the recipes'.

Weights that train are float32, frozen ones bf16; products are bf16 by autocast. Memory is the peak of tensors on the
GPU. The MFU counts the model's operations over whole optimizer steps, against the data sheet's peak. Needs
qvl[finetune]. `--preset tiny --device cpu` tries the script where there is no GPU; its numbers say nothing then.
"""

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.train.devices import device_reported
from qvl.train.flops import Operations, StepWork, forward_operations, mfu, step_operations
from qvl.train.optim import build_optimizers, freeze, set_lr
from qvl.train.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
LORA_TARGETS = ["c_attn", "attn_c_proj", "w1", "w2"]
LORA_ACCUMULATION = 8
PUBLISHED = {  # tokens -> (GB, seconds of an optimizer step); the published README's table
    "chat": {384: (23.3, 2.2), 512: (23.6, 2.3), 1024: (25.1, 3.5), 2048: (27.3, 5.9)},
    "base": {384: (37.1, 2.3), 512: (37.3, 2.4), 1024: (38.7, 3.6), 2048: (38.7, 6.1)},
}
FILLED = 0.92  # of the GPU's memory: the rest is what the allocator can't use


@dataclass(frozen=True)
class Case:
    """Full-parameter steps: a recipe, the rows of a micro-batch, the pictures of a row; parts that train, where not the
    recipe's."""

    name: str
    recipe: str
    rows: int
    images: int
    trains: tuple[str, ...] | None = None

    def load(self) -> Recipe:
        recipe = load_recipe(RECIPES / f"{self.recipe}.toml")
        return replace(recipe, trains=self.trains or recipe.trains)


CASES = (
    Case("stage 1", "pretrain", 4, 1),
    Case("stage 2", "multitask", 1, 4),
    Case("stage 3", "sft", 1, 1),
    Case("language model", "multitask", 2, 0, ("language",)),
)


@dataclass(frozen=True)
class Rows:
    """A micro-batch of random rows: `images` spans in each, text that carries loss between them."""

    input_ids: Tensor
    labels: Tensor
    pixel_values: Tensor | None
    documents: Tensor

    @property
    def work(self) -> StepWork:
        rows, tokens = self.input_ids.shape
        supervised = int((self.labels[:, 1:] != IGNORE_INDEX).sum())
        images = 0 if self.pixel_values is None else len(self.pixel_values)
        return StepWork(images, (tokens,) * rows, supervised)


@dataclass(frozen=True)
class Measured:
    """Of an optimizer step. peak: bytes on the GPU, 0 on the CPU."""

    seconds: float
    peak: int


def random_rows(config: QwenVLConfig, rows: int, tokens: int, images: int, device: str) -> Rows:
    """Rows of full length; pictures stand at equal distances."""
    ids = torch.randint(config.image_start_id, (rows, tokens))
    labels = ids.clone()
    span = config.vision.num_queries + 2
    for number in range(images):
        start = number * tokens // images
        labels[:, start : start + span] = IGNORE_INDEX
        ids[:, start], ids[:, start + span - 1] = config.image_start_id, config.image_end_id
    side = config.vision.image_size
    pixels = torch.randn(rows * images, 3, side, side, device=device) if images else None
    return Rows(ids.to(device), labels.to(device), pixels, torch.zeros_like(ids, device=device))


def random_model(config: QwenVLConfig, trains: Sequence[str], device: str) -> QwenVL:
    """Made on the device, with small random weights: float32 where they train, bf16 where not."""
    with torch.device("meta"):
        model = QwenVL(config).to(torch.bfloat16)
    freeze(model, trains)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    _train_in_float32(model)
    return model.train()


def add_lora(model: QwenVL, embeddings: bool) -> None:
    """Low-rank matrices of the published rank on the language model's blocks; embedding and head train too, or not."""
    settings = LoraConfig(r=64, lora_alpha=16, lora_dropout=0.05, target_modules=LORA_TARGETS)
    inject_adapter_in_model(settings, model)
    for parameter in (model.language.embedding.weight, model.language.head.weight):
        parameter.requires_grad_(embeddings)
    _train_in_float32(model)


def _train_in_float32(model: QwenVL) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def lora_operations(config: QwenVLConfig, work: StepWork, embeddings: bool) -> Operations:
    """ViT and adapter forward alone; gradients go through the language model, and into its head where that trains."""
    forward = forward_operations(config, work)
    through = step_operations(config, ("adapter",), work)
    whole = step_operations(config, ("language",), work)
    return replace(forward, language=through.language, head=(whole if embeddings else through).head)


def measure(
    model: QwenVL, optimizers: Sequence[torch.optim.Optimizer], rows: Rows, accumulation: int, device: str, steps: int
) -> Measured:
    """Mean time of `steps` optimizer steps after one to warm up, and their peak."""
    trained = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        for _ in range(accumulation):
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                loss, weight = model.loss(rows.input_ids, rows.labels, rows.pixel_values, document_ids=rows.documents)
            (loss / (float(weight) * accumulation)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

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
    for kind in PUBLISHED:
        for tokens in lengths:
            line = f"{kind:5}{tokens:7}"
            measured = unless_full(partial(run_lora, config, kind, tokens, device, steps), device)
            if measured is None:
                print(f"{line}  does not fit", flush=True)
                continue
            work = random_rows(config, 1, tokens, 1, "cpu").work
            operations = LORA_ACCUMULATION * lora_operations(config, work, kind == "base").total
            line += f"{measured.peak / 1e9:9.1f}{measured.seconds:9.2f}{_mfu(operations, measured, peak_flops)}"
            if tokens in PUBLISHED[kind]:
                memory, seconds = PUBLISHED[kind][tokens]
                line += f"{memory:12.1f}{seconds:9.1f}"
            print(line, flush=True)


def run_lora(config: QwenVLConfig, kind: str, tokens: int, device: str, steps: int) -> Measured:
    """Steps of one row with one picture."""
    model = random_model(config, (), device)
    add_lora(model, kind == "base")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    rows = random_rows(config, 1, tokens, 1, device)
    return measure(model, [optimizer], rows, LORA_ACCUMULATION, device, steps)


def print_stages(preset: QwenVLConfig, tokens: int | None, device: str, steps: int, peak_flops: float | None) -> None:
    """A line for each case; tokens: of a row, else the recipe's."""
    print("\nfull parameters   layers (ViT)  trained     tokens       GB   s/step  tokens/s     MFU")
    for case in CASES:
        layers, measured = run_deepest(case, preset, tokens, device, steps)
        if measured is None:
            print(f"{case.name:16}  does not fit", flush=True)
        else:
            print(stage_line(case, preset, layers, tokens, measured, peak_flops), flush=True)


def run_deepest(
    case: Case, preset: QwenVLConfig, tokens: int | None, device: str, steps: int
) -> tuple[int, Measured | None]:
    """Language layers of the deepest model that fits, and its steps; on the CPU the whole depth is taken."""

    def run(layers: int, steps: int) -> Measured | None:
        return unless_full(partial(run_case, case, preset, layers, tokens, device, steps), device)

    layers = preset.language.num_layers
    if device.startswith("cuda"):
        shallow = max(1, layers // 16)
        first, second = run(shallow, 1), run(2 * shallow, 1)
        if first is None or second is None:
            layers = shallow
        else:
            room = FILLED * torch.cuda.get_device_properties(device).total_memory
            layers = largest_depth(shallow, (first.peak, second.peak), room, layers)
    measured = None
    while layers > 0 and (measured := run(layers, steps)) is None:
        layers -= 1
    return layers, measured


def run_case(case: Case, preset: QwenVLConfig, layers: int, tokens: int | None, device: str, steps: int) -> Measured:
    """Steps of a model with so many language layers."""
    recipe = case.load()
    config = case_config(case, preset, layers)
    model = random_model(config, recipe.trains, device)
    optimizers = build_optimizers(model, recipe.optim)
    set_lr(optimizers, recipe.optim.min_lr)
    rows = random_rows(config, case.rows, tokens or recipe.data.row_length, case.images, device)
    return measure(model, optimizers, rows, recipe.grad_accumulation, device, steps)


def case_config(case: Case, preset: QwenVLConfig, layers: int) -> QwenVLConfig:
    """The preset at a depth, with the recipe's pictures, none larger than the preset's; a ViT that no picture reaches
    keeps one layer."""
    config = at_depth(preset, layers)
    side = case.load().image_size or preset.vision.image_size
    vision = replace(config.vision, image_size=min(side, preset.vision.image_size))
    return replace(config, vision=vision if case.images else replace(vision, layers=1))


def stage_line(
    case: Case, preset: QwenVLConfig, layers: int, tokens: int | None, measured: Measured, peak_flops: float | None
) -> str:
    """What ran, what it took, what of the GPU it used."""
    recipe = case.load()
    config = case_config(case, preset, layers)
    work = random_rows(config, case.rows, tokens or recipe.data.row_length, case.images, "cpu").work
    read = recipe.grad_accumulation * sum(work.documents)
    operations = recipe.grad_accumulation * step_operations(config, recipe.trains, work).total
    with torch.device("meta"):
        model = QwenVL(config)
    freeze(model, recipe.trains)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    depth = f"{layers} ({config.vision.layers if case.images else '-'})"
    return (
        f"{case.name:16}{depth:>14}{trained / 1e9:8.2f}B{read:11,}{measured.peak / 1e9:9.1f}{measured.seconds:9.2f}"
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training steps of the full geometry on one GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", default="qwen-vl", choices=PRESETS)
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps that are timed (3)")
    parser.add_argument("--tokens", type=int, help="of every row (else the published lengths and the recipes')")
    args = parser.parse_args(arguments)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("no GPU here: nothing was measured. Try the script with --device cpu --preset tiny --tokens 128")
    torch.manual_seed(0)
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "CPU (no measurement)"
    known = device_reported(name)
    peak_flops = known.peak_flops if known else None
    print(f"{name}, torch {torch.__version__}, preset {args.preset}")
    preset = PRESETS[args.preset]
    lengths = [args.tokens] if args.tokens else list(PUBLISHED["chat"])
    print_lora(preset, lengths, args.device, args.steps, peak_flops)
    print_stages(preset, args.tokens, args.device, args.steps, peak_flops)


if __name__ == "__main__":
    main()
