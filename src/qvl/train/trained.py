"""What a stage trains, as a table: group of weights, how, and how many numbers."""

from dataclasses import dataclass

import torch

from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton


@dataclass(frozen=True)
class Group:
    """Weights that belong together. how: frozen, LoRA, full."""

    name: str
    how: str
    trained: int  # numbers that train; those of adapters are not among the total
    total: int


def what_trains(model: QwenVL) -> list[Group]:
    """Every group of the model's weights, from what its parameters say."""
    with skeleton():
        plain = QwenVL(model.config)  # quantised matrices hide their size, adapters add to it
    totals = _count(plain, everything=True)
    trained = _count(model, everything=False)
    low_rank = {_group(name) for name, p in _named(model) if "lora_" in name and p.requires_grad}
    return [
        Group(
            name, "frozen" if not trained.get(name) else "LoRA" if name in low_rank else "full", trained.get(name, 0), n
        )
        for name, n in totals.items()
    ]


def table(groups: list[Group]) -> str:
    """For the terminal."""
    rows = [f"  {'weights':20} {'trains':8} {'trained':>15} {'of':>15}"]
    rows += [f"  {g.name:20} {g.how:8} {g.trained:15,} {g.total:15,}" for g in groups]
    trained, total = sum(g.trained for g in groups), sum(g.total for g in groups)
    return "\n".join([*rows, f"  {'all':20} {'':8} {trained:15,} {total:15,}"])


def _named(model: QwenVL) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if name != "adapter.pos_embed"]


def _group(name: str) -> str:
    """vision, adapter, and of the language model embedding, blocks, head (with the norm before it)."""
    part, _, rest = name.partition(".")
    inner = rest.split(".")[0]
    return f"{part}.{'head' if inner == 'ln_f' else inner}" if part == "language" else part


def _count(model: QwenVL, everything: bool) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, parameter in _named(model):
        if everything or parameter.requires_grad:
            counts[_group(name)] = counts.get(_group(name), 0) + parameter.numel()
    return counts
