"""Tokens a second and peak memory of the 9.6B model on one GPU, in bfloat16 and Int4, beside the published figures.

    python benchmarks/gpu_decoding.py [--preset qwen-vl] [--device cuda] [--lengths 2048 8192] > gpu_decoding.txt

Random weights: the time does not depend on them. One picture (258 tokens), then tokens up to each length, batch 1, as
in the published table (one A100-80G). A token must read all matrices of the language model but the embedding, and the
keys and values so far: that many bytes over its time, as a share of what a large copy moves (read and written). The
published figures are of other hardware: the share of the bandwidth is what compares.
"""

import argparse
import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from qvl.generate.engine import Engine
from qvl.generate.prepare import prepare
from qvl.generate.request import Request
from qvl.model.config import PRESETS, QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.quantize.layout import to_int4

PUBLISHED = {  # (weights, length) -> tokens/s, peak GB (of 2048 tokens that of encoding them)
    ("bfloat16", 2048): (28.87, 22.60),
    ("Int4", 2048): (37.79, 11.82),
    ("bfloat16", 8192): (24.32, 28.01),
    ("Int4", 8192): (34.34, 17.23),
}
COPY_BYTES = 2**30


@dataclass(frozen=True)
class Run:
    """One answer: how fast, how much memory, how much of the bandwidth."""

    weights: str
    length: int
    first_s: float
    tokens_per_s: float
    peak_gb: float
    share: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="qwen-vl", choices=list(PRESETS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192])
    args = parser.parse_args()
    moved = copy_bandwidth(args.device)
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    print(f"{name}, torch {torch.__version__}; a copy moves {moved / 1e9:.0f} GB/s")
    for weights in ("bfloat16", "Int4"):
        model = random_model(PRESETS[args.preset], weights, args.device)
        read = bytes_of_matrices(model)  # kernels hide some of them
        print(f"{weights}: {prepare(model)}")
        for length in args.lengths:
            answer(model, weights, min(length, 320), read, moved)  # kernels and recordings are made
            print(line(answer(model, weights, length, read, moved)), flush=True)
        del model


@torch.no_grad()
def random_model(config: QwenVLConfig, weights: str, device: str) -> QwenVL:
    """Made on the device, small values so that nothing overflows."""
    with torch.device("meta"):
        model = QwenVL(config).to(torch.bfloat16)
    model = model.to_empty(device=device)
    for parameter in model.parameters():
        parameter.normal_(std=0.02)
    model.eval().requires_grad_(False)
    if weights == "Int4":
        to_int4(model)
    return model


@torch.inference_mode()
def answer(model: QwenVL, weights: str, length: int, read: int, moved: float) -> Run:
    """One picture, then tokens up to `length`."""
    config, device = model.config, model.vision.conv1.weight.device
    vision = config.vision
    prompt = [config.image_start_id, *[config.image_end_id + 1] * vision.num_queries, config.image_end_id]
    image = torch.rand(3, vision.image_size, vision.image_size)
    wanted = length - len(prompt)
    engine = Engine(model, max_rows=1, max_tokens=length)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun, first = time.perf_counter(), 0.0
    for step in engine.stream(Request(prompt, [image], wanted)):
        if step.token_id is not None and not first:
            first = time.perf_counter()
    seconds = time.perf_counter() - first
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else float("nan")
    per_s = (wanted - 1) / seconds
    return Run(weights, length, first - begun, per_s, peak, (read + bytes_of_cache(model, length)) * per_s / moved)


def bytes_of_matrices(model: QwenVL) -> int:
    """That every token reads: all matrices of the language model but the embedding."""
    layers = [module for module in model.language.modules() if isinstance(module, nn.Linear)]
    return sum(tensor.nbytes for layer in layers for tensor in layer.state_dict().values())


def bytes_of_cache(model: QwenVL, length: int) -> float:
    """Keys and values that a token reads on average up to `length`."""
    config = model.config.language
    return config.num_layers * config.hidden_size * 2 * model.vision.conv1.weight.element_size() * length / 2


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(10):
        _wait(device)
        begun = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * COPY_BYTES / best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def line(run: Run) -> str:
    """One row, with the published one behind it."""
    peak = "" if math.isnan(run.peak_gb) else f"peak {run.peak_gb:.2f} GB, "
    text = (
        f"  {run.weights} to {run.length} tokens: first after {run.first_s:.2f} s, {run.tokens_per_s:.1f} tokens/s, "
        f"{peak}{100 * run.share:.0f}% of a copy's bandwidth"
    )
    if known := PUBLISHED.get((run.weights, run.length)):
        text += f" (published, A100: {known[0]} tokens/s, {known[1]} GB)"
    return text


if __name__ == "__main__":
    main()
