"""The shapes from pixels to logits, taken from the modules of a forward pass, and what each part costs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.train.flops import StepWork, forward_operations
from qvl.train.trained import what_trains

# In the order of the pass: step -> the module, and whether its input is meant. Blocks are told once, by their end.
STEPS = {
    "pixel_values": ("vision", True),
    "vision.conv1": ("vision.ln_pre", True),
    "vision.ln_pre": ("vision.ln_pre", False),
    "vision.blocks": ("vision", False),
    "adapter.kv_proj": ("adapter.kv_proj", False),
    "adapter": ("adapter", False),
    "language.embedding": ("language.embedding", False),
    "embed": ("language", True),
    "language.blocks": ("language.ln_f", True),
    "language.ln_f": ("language.ln_f", False),
    "language.head": ("language.head", False),
}


@dataclass(frozen=True)
class Part:
    """vision, adapter, language (embedding and blocks) or head."""

    name: str
    parameters: int
    operations: float  # floating point, of the forward pass


@dataclass
class Flow:
    """A forward pass of one row of tokens. shapes: of each of STEPS; parts: what they hold and cost."""

    config: QwenVLConfig
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)


@contextmanager
def flowing(model: QwenVL) -> Iterator[Flow]:
    """The flow of the forward pass that runs within."""
    flow = Flow(model.config)

    def note(name: str) -> tuple[Any, Any]:
        def before(_: Any, inputs: tuple[Any, ...]) -> None:
            flow.shapes[name] = tuple(inputs[0].shape)

        def after(_module: Any, _inputs: Any, made: Tensor) -> None:
            flow.shapes[name] = tuple(made.shape)

        return before, after

    hooks = []
    for name, (path, takes_input) in STEPS.items():
        before, after = note(name)
        module = model.get_submodule(path)
        hooks.append(module.register_forward_pre_hook(before) if takes_input else module.register_forward_hook(after))
    try:
        yield flow
    finally:
        for hook in hooks:
            hook.remove()
    images, tokens = flow.shapes["pixel_values"][0], flow.shapes["language.head"][1]
    flow.parts = parts(model, StepWork(images, [tokens], tokens))


def parts(model: QwenVL, work: StepWork) -> list[Part]:
    """What each part holds and a forward pass costs; logits are made at every place that `work` calls supervised."""
    operations = forward_operations(model.config, work)
    numbers = {group.name: group.total for group in what_trains(model)}
    language = numbers["language.embedding"] + numbers["language.blocks"]
    return [
        Part("vision", numbers["vision"], operations.vision),
        Part("adapter", numbers["adapter"], operations.adapter),
        Part("language", language, operations.language),
        Part("head", numbers["language.head"], operations.head),
    ]


def flow_of(config: QwenVLConfig, images: int, tokens: int) -> Flow:
    """The same for a model that exists as shapes alone: a real pass, on torch's device without memory.

    tokens: all of the row, the pictures' places among them.
    """
    with skeleton():
        model = QwenVL(config).eval()
    with torch.device("meta"), torch.no_grad():
        side = config.vision.image_size
        with flowing(model) as flow:
            model.encode_images(torch.empty(images, 3, side, side))
            ids = torch.zeros(1, tokens, dtype=torch.int64)
            model.language.head(model.read(model.language.embedding(ids)))
    return flow
