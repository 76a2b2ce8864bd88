"""DeepSpeed's ZeRO-2 and ZeRO-3 in place of FSDP, for those who have a JSON that they trust (parallel.deepspeed).

Optimizer, schedule, loss and what is skipped are the trainer's; DeepSpeed shares out weights, gradients and the
optimizer's state. Written for deepspeed 0.19: two of its methods, which have the gradient's norm before the weights
move, are wrapped.
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qvl.checkpoint.state import KEPT_STATES, Values
from qvl.errors import CheckpointError, MissingDependencyError, RecipeError
from qvl.files import write_text
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.train.deepspeed_json import deepspeed_settings
from qvl.train.engine import Batches, Judge, Stepped
from qvl.train.measure import Seen, accumulate, supervised_weight, token_measure
from qvl.train.optim import build_optimizers, set_lr
from qvl.train.ranks import Ranks
from qvl.train.recipe import Recipe

STATE_NAME = "deepspeed"
VALUES_NAME = "values.json"  # comes last: a state without it is of a run that was killed


class _Loss(nn.Module):
    """DeepSpeed enters a model through a forward; the training's way in is QwenVL.loss."""

    def __init__(self, model: QwenVL) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return QwenVL.loss(self.model, *args, **kwargs)


def check_deepspeed(recipe: Recipe, config: QwenVLConfig, stage_dir: Path, ranks: Ranks, device: str) -> None:
    """Before anything is written: MissingDependencyError without the library, RecipeError where the JSON is not the
    recipe's or the newest state is of another number of ranks."""
    _deepspeed(device)
    _settings(recipe, config, ranks)
    for folder in _whole_states(stage_dir / STATE_NAME)[-1:]:
        if (before := _values(folder)["ranks"]) != ranks.data_size:
            raise RecipeError(
                f"{folder}: DeepSpeed's state of {before} ranks can't be read by {ranks.data_size}; go on with {before}"
            )


class DeepSpeedEngine:
    """See engine.Engine. From here on `model.loss` goes through DeepSpeed, as it must where weights are shared out."""

    def __init__(self, model: QwenVL, recipe: Recipe, stage_dir: Path, device: str, ranks: Ranks) -> None:
        self.model, self.recipe, self.ranks = model, recipe, ranks
        self.state_dir = stage_dir / STATE_NAME
        settings, library = _settings(recipe, model.config, ranks), _deepspeed(device)
        [optimizer] = build_optimizers(model, recipe.optim)
        if not dist.is_initialized():
            dist.init_process_group("gloo" if device == "cpu" else "nccl", store=dist.HashStore(), rank=0, world_size=1)
        # torch's remark on what DeepSpeed calls.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
        self.engine, *_ = library.initialize(
            model=_Loss(model), optimizer=optimizer, config=settings, dist_init_required=False
        )
        model.loss = partial(_through, self.engine)  # type: ignore[method-assign]
        self.measure = token_measure(model, recipe, device)
        self.accepts: Callable[[float], bool] = lambda norm: True
        self._judge_norms()

    def _judge_norms(self) -> None:
        """DeepSpeed leaves out a step whose norm is no number; so is one made that the judge objects to."""
        optimizer = self.engine.optimizer
        if self.engine.zero_optimization_stage() == 3:
            groups_of = optimizer._get_norm_groups
            optimizer._get_norm_groups = lambda: self._judged(groups_of())
        else:
            norm_of = optimizer.scaled_global_norm
            optimizer.scaled_global_norm = lambda **settings: self._judged([norm_of(**settings)])[0]

    def _judged(self, norms: list[Tensor]) -> list[Tensor]:
        """Norms of groups of parameters, -1 where one is no number."""
        together = torch.stack([norm if norm >= 0 else torch.full_like(norm, torch.inf) for norm in norms])
        accepted = self.accepts(float(torch.linalg.vector_norm(together)))
        return norms if accepted else [torch.full_like(norm, torch.inf) for norm in norms]

    def restore(self) -> tuple[int, Values] | None:
        """See Engine."""
        for folder in _whole_states(self.state_dir)[-1:]:
            # Without the frozen weights, which the run starts with anyhow.
            self.engine.load_checkpoint(str(self.state_dir), folder.name, load_module_strict=False)
            return int(folder.name.removeprefix("step-")), _values(folder)["values"]
        return None

    def step(self, batches: Batches, lr: float, judge: Judge) -> Stepped:
        """See Engine. The micro-batches are read before the first of them is learnt from: each is weighed by what all
        of them hold."""
        set_lr([self.engine.optimizer], lr)
        start = time.perf_counter()
        held = [next(batches) for _ in range(self.engine.gradient_accumulation_steps())]
        waited = torch.tensor((time.perf_counter() - start) / self.ranks.data_size, dtype=torch.float64)
        weight = torch.tensor(sum(supervised_weight(batch) for batch, _ in held), dtype=torch.float64)
        # DeepSpeed divides by the micro-batches and by the ranks.
        factor = len(held) * self.ranks.data_size / (float(self.ranks.add(weight)) or 1.0)
        begun = False

        def backward(loss_sum: Tensor) -> None:
            nonlocal begun
            if begun:
                self.engine.step()  # only counts: the micro-batch before was not the last
            begun = True
            self.engine.backward(loss_sum * factor)

        seen = accumulate(iter(held), self.measure, self.recipe, self.model, self.ranks, backward)
        seen.waited_s += float(self.ranks.add(waited))
        verdicts: list[tuple[float, str | None]] = []
        self.accepts = partial(_note_verdict, verdicts, judge, seen)
        self.engine.step()
        if not verdicts:  # it found the numbers wrong before it asked for their norm
            self.accepts(float("nan"))
        norm, fault = verdicts[0]
        return Stepped(seen, norm, {}, fault)

    def save(self, step: int, values: Values) -> None:
        """See Engine; training waits for it."""
        folder = self.state_dir / f"step-{step:08d}"
        try:
            self.engine.save_checkpoint(
                str(self.state_dir), folder.name, save_latest=False, exclude_frozen_parameters=True
            )
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(self.state_dir.parent).free / 1e6
            raise CheckpointError(
                f"{folder}: a state could not be written ({error}; {free:,.0f} MB were free on its disk)"
            ) from error
        self.ranks.gather(None)  # all have written their part
        if self.ranks.is_first:
            write_text(folder / VALUES_NAME, json.dumps({"ranks": self.ranks.data_size, "values": values}))
            kept = _whole_states(self.state_dir)[-KEPT_STATES:]
            for old in self.state_dir.glob("step-*"):
                if old not in kept:
                    shutil.rmtree(old, ignore_errors=True)

    def finish(self) -> None:
        """Nothing is under way."""


def _whole_states(state_dir: Path) -> list[Path]:
    return sorted(path.parent for path in state_dir.glob(f"step-*/{VALUES_NAME}"))


def _values(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / VALUES_NAME).read_text(encoding="utf-8")))


def _through(engine: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    loss: tuple[Tensor, Tensor] = engine(*args, **kwargs)
    return loss


def _note_verdict(verdicts: list[tuple[float, str | None]], judge: Judge, seen: Seen, norm: float) -> bool:
    fault = judge(seen, norm)
    verdicts.append((norm, fault))
    return fault is None


def gather_trained(model: QwenVL, start: QwenVL | None) -> QwenVL | None:
    """The weights that trained, in float32, put into the model that the training started from, on the first rank;
    all ranks call. (The model itself was rounded to bf16, the frozen weights too.)"""
    full_of = import_module("deepspeed.utils").safe_get_full_fp32_param
    state = start.state_dict() if start is not None else {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            full = full_of(parameter)
            if state:
                state[name].copy_(full)
    return start.eval() if start is not None else None


def _settings(recipe: Recipe, config: QwenVLConfig, ranks: Ranks) -> dict[str, Any]:
    return deepspeed_settings(Path(recipe.parallel.deepspeed), recipe, config, ranks.data_size)


def _deepspeed(device: str) -> Any:
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    try:
        library = import_module("deepspeed")
    except ImportError as error:
        raise MissingDependencyError("parallel.deepspeed needs DeepSpeed: pip install 'qvl[deepspeed]'") from error
    # On a CPU: sums within a machine past gloo, for which it would compile two minutes at the first start.
    library.ops.__compatible_ops__[import_module("deepspeed.ops.op_builder.cpu").ShareMemCommBuilder.NAME] = False
    return library
