"""Which parameters train, at which rate, with which decay; and the schedule.

Source: Table 8 and section 3 of the paper. Policies read the model's own order, `layer_groups()`.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from qvl.model.precision import multiplies_bf16
from qvl.model.qwen_vl import QwenVL
from qvl.train.parallel import by_mesh
from qvl.train.recipe import OptimConfig

# Muon's usual 5 take a fifth of a step on two cores; 3, with half the batch, taught as much per picture.
NEWTON_SCHULZ_STEPS = 3


def freeze(model: QwenVL, trains: Sequence[str]) -> None:
    """Let exactly the named parts (vision, adapter, language) train; fixed position tables never do."""
    for name, params in model.layer_groups():
        for param in params:
            param.requires_grad_(name.split(".")[0] in trains)


def build_optimizers(model: QwenVL, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW over what trains: matrices decay, vectors don't, deeper ViT layers learn faster.

    With optimizer = "muon" the matrices of the blocks and the adapter go to Muon instead, whose updates are
    scaled to AdamW's size so that one schedule serves both; embeddings, the ViT's table, vectors and the heads
    stay with AdamW. Each group keeps its own factor as `lr_scale`; set_lr multiplies the schedule's rate by it.
    """
    adamw: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []
    vision_depth = sum(name.startswith("vision.") for name, _ in model.layer_groups())
    for i, (name, params) in enumerate(model.layer_groups()):
        part, _, layer = name.partition(".")
        scale = config.lr_scale.get(part, 1.0)
        if part == "vision":
            scale *= config.vision_layer_decay ** (vision_depth - 1 - i)
        trainable = [p for p in params if p.requires_grad]
        inner = layer.isdigit() or part == "adapter"
        to_muon = [p for p in trainable if p.ndim == 2] if config.optimizer == "muon" and inner else []
        if to_muon:
            muon.append({"params": to_muon, "lr_scale": scale * config.muon_scale})
        for decays in (True, False):
            chosen = [p for p in trainable if (p.ndim >= 2) == decays and not (to_muon and decays)]
            if chosen:
                decay = config.weight_decay if decays else 0.0
                adamw.append({"params": chosen, "weight_decay": decay, "lr_scale": scale})
    adamw = [{**group, "params": together} for group in adamw for together in by_mesh(group["params"])]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(adamw, lr=config.peak_lr, betas=config.betas, eps=config.eps, fused=True)
    ]
    if muon:
        optimizers.append(
            Muon(
                muon,
                lr=config.peak_lr,
                weight_decay=config.weight_decay,
                ns_steps=NEWTON_SCHULZ_STEPS,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


class Muon(torch.optim.Muon):
    """torch's, whose products are bf16, but in float32 on CPUs without them, where they were most of a step."""

    def step(self, closure: Any = None) -> Any:
        """One update."""
        kind = self.param_groups[0]["params"][0].device.type
        with nullcontext() if multiplies_bf16(kind) else _Float32():
            return super().step(closure)


class _Float32(TorchFunctionMode):
    """What asks for bf16 gets a copy in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


def lr_at(step: int, total_steps: int, config: OptimConfig) -> float:
    """Rate of step 0, 1, ...: linear warm-up, then a cosine from peak_lr to min_lr at the last step."""
    if step < config.warmup_steps:
        return config.peak_lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.min_lr + (config.peak_lr - config.min_lr) * cosine


def set_lr(optimizers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Give every group the schedule's rate times its own factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
