"""One model on several ranks (tensor parallelism): each holds a part of the language model's matrices and reads all
requests; the first one talks to the clients.

Every block's c_attn, w1 and w2 are split by their outputs, attn_c_proj and mlp_c_proj by their inputs, and what these
give is added up over the ranks (Megatron's scheme), so that all ranks see the same logits and draw the same tokens. The
vision encoder, the embedding and the head are whole everywhere.
"""

import secrets
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from qvl.errors import UsageError
from qvl.generate.engine import Engine
from qvl.generate.prepare import prepare
from qvl.generate.request import Request, Step
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.quantize.gptq import GPTQLinear
from qvl.serve.app import Served
from qvl.serve.run import run
from qvl.serve.settings import Settings
from qvl.serve.worker import Worker
from qvl.text.tokenizer import Tokenizer

IDLE = timedelta(days=365)  # how long the other ranks wait for a request


def share_out(model: QwenVL, rank: int, size: int) -> None:
    """Keep this rank's part of the language model's matrices, in place. UsageError where they can't be shared."""
    heads, inner = model.config.language.num_heads, model.config.language.intermediate_size // 2
    if heads % size or inner % size:
        raise UsageError(f"--tensor {size}: {heads} heads and {inner} channels can't be shared evenly")
    for block in model.language.blocks:
        for name in ("c_attn", "w1", "w2", "attn_c_proj", "mlp_c_proj"):
            layer = block.get_submodule(name)
            if isinstance(layer, GPTQLinear) or not isinstance(layer, nn.Linear):
                raise UsageError("--tensor: whole matrices can be shared out, this checkpoint's are quantised")
            if name.endswith("c_proj"):
                block.set_submodule(name, _AddedUp(_by_input(layer, rank, size)))
            else:
                block.set_submodule(name, _by_output(layer, rank, size, 3 if name == "c_attn" else 1))


def _by_output(layer: nn.Linear, rank: int, size: int, parts: int) -> nn.Linear:
    """parts: how many matrices lie on each other (q, k and v); a part of each."""

    def own(tensor: Tensor) -> Tensor:
        return torch.cat([part.chunk(size)[rank] for part in tensor.detach().chunk(parts)])

    return _linear(own(layer.weight), None if layer.bias is None else own(layer.bias))


def _by_input(layer: nn.Linear, rank: int, size: int) -> nn.Linear:
    """The bias is the first rank's: it is added once."""
    bias = layer.bias.detach() if layer.bias is not None and rank == 0 else None
    return _linear(layer.weight.detach().chunk(size, dim=1)[rank].contiguous(), bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with skeleton():
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias}, assign=True)
    return layer.requires_grad_(False)


class _AddedUp(nn.Module):
    """What a part gives, summed over the ranks."""

    def __init__(self, part: nn.Linear) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        product = self.part(x)
        dist.all_reduce(product)
        return product


class LeadingEngine(Engine):
    """The first rank's: the others do whatever it does, in the same order."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._commands = dist.new_group(backend="gloo", timeout=IDLE)

    def add(self, request: Request) -> int:
        if request.seed is None:
            request = replace(request, seed=secrets.randbits(63))
        self._check(request)  # what it refuses the others never hear of
        self._tell("add", request)
        return super().add(request)

    def cancel(self, request_id: int) -> None:
        self._tell("cancel", request_id)
        super().cancel(request_id)

    def step(self) -> list[Step]:
        self._tell("step", None)
        return super().step()

    def close(self) -> None:
        """The others leave."""
        self._tell("close", None)

    def _tell(self, kind: str, value: Any) -> None:
        dist.broadcast_object_list([(kind, value)], 0, self._commands)


def follow(engine: Engine) -> None:
    """The other ranks': do what the first one does until it closes."""
    commands = dist.new_group(backend="gloo", timeout=IDLE)
    while True:
        told: list[Any] = [None]
        dist.broadcast_object_list(told, 0, commands)
        kind, value = told[0]
        if kind == "close":
            return
        if kind == "step":
            engine.step()
        else:
            getattr(engine, kind)(value)


def serve_shared(model: QwenVL, folder: Path, settings: Settings, device: str) -> None:
    """On all ranks, each with the whole model, of which its part goes to the device: the first one serves until it is
    told to stop, the others follow."""
    share_out(model, dist.get_rank(), dist.get_world_size())
    kernels = prepare(model.to(device))
    if dist.get_rank() > 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first rank says when
        follow(Engine(model, max_rows=settings.max_rows, max_tokens=settings.max_tokens))
        return
    engine = LeadingEngine(model, max_rows=settings.max_rows, max_tokens=settings.max_tokens)
    worker = Worker(engine, settings.max_waiting)
    try:
        served = Served(model.config, Tokenizer.from_dir(folder), worker, settings, engine.max_tokens)
        run(served, f"{dist.get_world_size()} ranks, {kernels}")
    finally:
        worker.close()
        engine.close()
