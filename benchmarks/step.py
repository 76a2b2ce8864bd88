"""One training step (forward, backward, fused AdamW) beside transformers' nearest models at the same sizes, and the
loss of 151,936 classes with its gradients beside the one of all logits.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/step.py > benchmarks/step.txt

The ViT stands beside CLIPVisionModel, the language model beside Qwen2ForCausalLM, the whole model (with the adapter)
beside the sum of the two. Theirs run with attention "sdpa" and "eager", and the faster counts. Ours run as the trainer
runs them. All take turns in one process, so that other work on the machine hits each alike. Times are CPU seconds, the
shortest of the turns. Each loss runs in a process of its own: memory is what its steps add to the process's peak.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

from qvl.model.config import LanguageConfig, QwenVLConfig, VisionConfig
from qvl.model.loss import head_loss
from qvl.model.precision import fast_kernels
from qvl.model.qwen_vl import QwenVL
from qvl.text.special_tokens import IGNORE_INDEX

TURNS = 5
ATTENTION = ("sdpa", "eager")  # theirs
PRECISIONS = ("float32", "bf16")
LANGUAGE = LanguageConfig(vocab_size=8192, hidden_size=512, num_layers=4, num_heads=8, intermediate_size=2 * 1408)
CLASSES, WIDTH, PLACES = 151936, 512, (512, 1024, 2048)


@dataclass(frozen=True)
class Size:
    """Rows of so many tokens, each with one picture of a stage's size."""

    side: int
    rows: int
    tokens: int

    @property
    def config(self) -> QwenVLConfig:
        vision = VisionConfig(
            image_size=self.side, width=384, layers=6, heads=6, mlp_ratio=4.0, output_dim=512, adapter_head_size=64
        )
        return QwenVLConfig(vision, LANGUAGE, image_start_id=8000)


SIZES = {"stage 1": Size(224, 2, 512), "stages 2, 3": Size(448, 1, 2048)}
Step = Callable[[], None]
Context = Callable[[], AbstractContextManager[None]]


def step_of(module: nn.Module, loss: Callable[[], Tensor], context: Context) -> Step:
    """A call trains the module by one step."""
    module.train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with context():
            total = loss()
        total.backward()
        optimizer.step()

    return step


def fastest(steps: dict[str, Step], turns: int) -> dict[str, float]:
    """Seconds of each at its best; they take turns, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(1 + turns):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return {name: min(taken[1:]) for name, taken in times.items()}


def peer_vision(c: VisionConfig, attention: str) -> CLIPVisionModel:
    """transformers' ViT of these sizes; its class token makes one patch more."""
    settings = CLIPVisionConfig(
        hidden_size=c.width,
        intermediate_size=int(c.width * c.mlp_ratio),
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        image_size=c.image_size,
        patch_size=c.patch_size,
        hidden_act="gelu",
        attn_implementation=attention,
    )
    return CLIPVisionModel(settings)


def peer_language(c: LanguageConfig, attention: str) -> Qwen2ForCausalLM:
    """transformers' language model of these sizes."""
    settings = Qwen2Config(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size // 2,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_heads,
        rms_norm_eps=c.layer_norm_epsilon,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation=attention,
    )
    return Qwen2ForCausalLM(settings)


def steps_of(size: Size, precision: str) -> dict[str, Step]:
    """Every step that is timed, by what it trains and whose it is."""
    config = size.config
    pixels = torch.randn(size.rows, 3, size.side, size.side)
    ids = torch.randint(config.image_start_id, (size.rows, size.tokens))
    rows, labels = ids.clone(), ids.clone()
    span = config.vision.num_queries + 2
    rows[:, 0], rows[:, span - 1] = config.image_start_id, config.image_end_id
    labels[:, :span] = IGNORE_INDEX

    def ours() -> QwenVL:
        model = QwenVL(config)
        model.initialize(0)
        return model

    def loss_of(model: QwenVL, ids: Tensor, labels: Tensor, pixels: Tensor | None = None) -> Tensor:
        total, count = model.loss(ids, labels, pixels)
        return total / count

    kernels = partial(fast_kernels, "cpu", precision)
    models = [ours() for _ in range(3)]
    steps = {
        "ViT ours": step_of(models[0].vision, lambda: models[0].vision(pixels).float().square().mean(), kernels),
        "language model ours": step_of(models[1].language, partial(loss_of, models[1], ids, ids), kernels),
        "whole ours": step_of(models[2], partial(loss_of, models[2], rows, labels, pixels), kernels),
    }
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")  # as their users write
    for attention in ATTENTION:
        clip, qwen = peer_vision(config.vision, attention), peer_language(config.language, attention)
        steps[f"ViT {attention}"] = step_of(
            clip, lambda clip=clip: clip(pixels).last_hidden_state.float().square().mean(), autocast
        )
        steps[f"language model {attention}"] = step_of(qwen, lambda qwen=qwen: qwen(ids, labels=ids).loss, autocast)
    return steps


def print_steps() -> None:
    """Milliseconds, and peer/ours."""
    print(f"{'one step, ms':30}{'ours':>8}{'sdpa':>8}{'eager':>8}   peer/ours")
    for size_name, size in SIZES.items():
        print(f"{size_name}: {size.side} pixels, {size.rows} x {size.tokens} tokens")
        for precision in PRECISIONS:
            times = fastest(steps_of(size, precision), TURNS)
            peers = 0.0
            for part in ("ViT", "language model"):
                theirs = [times[f"{part} {attention}"] for attention in ATTENTION]
                peers += min(theirs)
                shown = "".join(f"{1e3 * t:8.0f}" for t in (times[f"{part} ours"], *theirs))
                print(f"  {precision:9}{part:19}{shown}{min(theirs) / times[f'{part} ours']:12.2f}", flush=True)
            whole = times["whole ours"]
            print(f"  {precision:9}{'whole, sum of both':19}{1e3 * whole:8.0f}{1e3 * peers:8.0f}{peers / whole:20.2f}")


def one_loss(whose: str, precision: str, places: int) -> None:
    """Seconds (the shortest of two) and bytes of a loss and its gradients, as JSON: alone in this process."""
    torch.manual_seed(0)
    hidden = torch.randn(places, WIDTH, requires_grad=True)
    weight = torch.randn(CLASSES, WIDTH).div_(WIDTH**0.5).requires_grad_()
    targets = torch.randint(CLASSES, (places,))
    before, times = peak_bytes(), []
    for _ in range(2):
        hidden.grad = weight.grad = None
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            if whose == "ours":
                loss = head_loss(hidden, weight, targets)[0]
            else:
                loss = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
        loss.backward()
        times.append(time.process_time() - start)
    print(json.dumps({"seconds": min(times), "bytes": peak_bytes() - before}))


def peak_bytes() -> int:
    """The most memory that this process had. (getrusage would count its parent's.)"""
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(peak)


def print_losses() -> None:
    """Seconds and GB of both, and naive/ours."""
    print(f"\n{CLASSES:,} classes, width {WIDTH}: loss and gradients")
    print(f"{'':11}places   ours s   naive s   naive/ours   ours GB   naive GB   naive/ours")
    for precision in PRECISIONS:
        for places in PLACES:
            ours, naive = (
                json.loads(
                    subprocess.run(
                        [sys.executable, __file__, whose, precision, str(places)],
                        check=True,
                        stdout=subprocess.PIPE,
                        text=True,
                    ).stdout
                )
                for whose in ("ours", "naive")
            )
            print(
                f"  {precision:9}{places:6}{ours['seconds']:9.2f}{naive['seconds']:10.2f}"
                f"{naive['seconds'] / ours['seconds']:13.2f}{ours['bytes'] / 1e9:10.2f}{naive['bytes'] / 1e9:11.2f}"
                f"{naive['bytes'] / ours['bytes']:13.2f}",
                flush=True,
            )


def main() -> None:
    torch.manual_seed(0)
    print(f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"load of the machine when it began: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print_steps()
    print_losses()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        one_loss(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
