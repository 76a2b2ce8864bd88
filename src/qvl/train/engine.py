"""What makes a step of a training and keeps its state: PyTorch's own way here, DeepSpeed's in deepspeed_engine.py."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qvl.checkpoint.state import StateWriter, Values, restore
from qvl.data.loader import State
from qvl.model.qwen_vl import QwenVL
from qvl.train.dense import DenseHead
from qvl.train.measure import Seen, accumulate, dense_measure, token_measure
from qvl.train.optim import build_optimizers, set_lr
from qvl.train.parallel import add_up_gradients, gradient_norms, local_gradients
from qvl.train.ranks import Ranks
from qvl.train.recipe import Recipe
from qvl.train.snapshot import Snapshot

STATE_NAME = "state"
Batches = Iterator[tuple[Any, State]]
Judge = Callable[[Seen, float], str | None]  # what was seen, the gradient's norm -> why the step must be skipped


@dataclass(frozen=True)
class Stepped:
    """What became of a step. norms: of the gradient, by part of the model, where they are known."""

    seen: Seen
    norm: float
    norms: dict[str, float]
    fault: str | None


class Engine(Protocol):
    """What the loop asks of either; all ranks call."""

    def restore(self) -> tuple[int, Values] | None:
        """Put the newest whole state back: how many steps it has done, the values that were saved with it."""

    def step(self, batches: Batches, lr: float, judge: Judge) -> Stepped:
        """Read, learn, and move the weights unless the judge objects."""

    def save(self, step: int, values: Values) -> None:
        """Keep the state after so many steps. CheckpointError when one could not be written."""

    def finish(self) -> None:
        """Wait until what was saved is on the disk."""


class TorchEngine:
    """One rank, FSDP's shares of a model (parallel.py), or adapters on a base that each rank has."""

    def __init__(
        self, model: QwenVL, head: DenseHead | None, recipe: Recipe, stage_dir: Path, device: str, ranks: Ranks
    ) -> None:
        self.model, self.recipe, self.ranks = model, recipe, ranks
        modules: dict[str, nn.Module] = {"model": model}
        self.optimizers = build_optimizers(model, recipe.optim)
        if head is None:
            self.measure = token_measure(model, recipe, device)
        else:
            modules["head"] = head.to(device)
            self.optimizers[0].add_param_group({"params": list(head.parameters()), "lr_scale": 1.0})
            self.measure = dense_measure(model, head, recipe, device)
        self.trained = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        self.parts = _parts(modules, self.trained)
        self.snapshot = Snapshot(modules, self.optimizers)
        self.writer = StateWriter(stage_dir / STATE_NAME, ranks.is_first)

    def restore(self) -> tuple[int, Values] | None:
        """Weights that train, the optimizers' states and random states; see Engine."""
        if found := restore(self.writer.state_dir, self.snapshot.places):
            self.snapshot.loaded()
        return found

    def step(self, batches: Batches, lr: float, judge: Judge) -> Stepped:
        """Accumulate, clip, move."""
        set_lr(self.optimizers, lr)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        seen = accumulate(batches, self.measure, self.recipe, self.model, self.ranks)
        add_up_gradients(self.trained, self.ranks)
        gradients = local_gradients(self.trained)
        torch._foreach_div_(gradients, seen.weight or 1.0)
        norms = gradient_norms(self.trained, self.ranks)
        norm = torch.linalg.vector_norm(norms)
        if not (fault := judge(seen, float(norm))):
            torch._foreach_mul_(gradients, torch.clamp(self.recipe.optim.grad_clip / (norm + 1e-6), max=1.0))
            for optimizer in self.optimizers:
                optimizer.step()
        return Stepped(seen, float(norm), _by_part(self.parts, norms), fault)

    def save(self, step: int, values: Values) -> None:
        """From a thread, beside training; see Engine."""
        self.writer.save(step, self.snapshot.tensors(), values)

    def finish(self) -> None:
        """See Engine."""
        self.writer.finish()


def _parts(modules: Mapping[str, nn.Module], params: list[Tensor]) -> list[str]:
    """The part of the model (vision, adapter, language; head) that each parameter belongs to."""
    names: dict[Tensor, str] = {
        p: f"{part}.{name}" for part, module in modules.items() for name, p in module.named_parameters()
    }
    return [names[p].removeprefix("model.").split(".")[0] for p in params]


def _by_part(parts: list[str], norms: Tensor) -> dict[str, float]:
    squares: dict[str, float] = {}
    for part, square in zip(parts, norms.square().tolist(), strict=True):
        squares[part] = squares.get(part, 0.0) + square
    return {part: square**0.5 for part, square in squares.items()}
