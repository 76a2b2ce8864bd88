"""A finished model -> the same model, shared out among ranks: `parallelize`, and what goes with it.

Adapters train otherwise: each rank holds the frozen base whole, and the gradients of the little that trains are added
up once a step (`add_up_gradients`).

The order is tensor parallelism, activation checkpointing, compilation, sharding (FSDP2). No module and no loss knows of
it. How `parallel.shard` maps to ZeRO: "optimizer" (ZeRO-1) keeps whole bf16 weights and whole gradients over the
micro-batches of a step and reduces them once; "gradients" (ZeRO-2) reduces them after each micro-batch; "parameters"
(ZeRO-3) gathers each block's weights only while they are used. In all three a rank keeps its share of the float32
weights and of the optimizer's state.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from qvl.errors import RecipeError
from qvl.model.config import QwenVLConfig
from qvl.model.qwen_vl import QwenVL
from qvl.model.skeleton import skeleton
from qvl.train.ranks import Ranks
from qvl.train.recipe import ParallelConfig, Recipe

# It says at every gathering of a tensor that is split twice that two gatherings are needed.
logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)

# Matrices that are split by rows of their output, and those that add up what the parts give (Megatron's scheme).
_Style = type[ColwiseParallel] | type[RowwiseParallel]
_VISION_SPLIT: dict[str, _Style] = {"in_proj": ColwiseParallel, "out_proj": RowwiseParallel, "c_fc": ColwiseParallel}
_VISION_SPLIT |= {"c_proj": RowwiseParallel}
_LANGUAGE_SPLIT: dict[str, _Style] = {"c_attn": ColwiseParallel, "attn_c_proj": RowwiseParallel, "w1": ColwiseParallel}
_LANGUAGE_SPLIT |= {"w2": ColwiseParallel, "mlp_c_proj": RowwiseParallel}


def blocks_of(model: QwenVL) -> list[nn.Module]:
    """The transformer blocks, in order of depth: the units of checkpointing, compilation and sharding."""
    return [*model.vision.blocks, *model.language.blocks]


def prepare_blocks(model: QwenVL, config: ParallelConfig) -> None:
    """Activation checkpointing and compilation, each block by itself; also for a model on one rank."""
    for block in blocks_of(model):
        if config.checkpoint_activations:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if config.compile:
            block.compile()


def parallelize(source: QwenVL | None, config: QwenVLConfig, ranks: Ranks, recipe: Recipe, device: str) -> QwenVL:
    """The model with its weights shared out among ranks; all of them call.

    source: the whole model on the first rank, None on the others. Raises RecipeError where heads can't be shared.
    """
    if ranks.mesh is None:
        raise ValueError("one rank alone has nothing to share")
    with skeleton():
        model = QwenVL(config)
    if ranks.tensor_size > 1:
        _split_blocks(model, ranks.mesh["tensor"])
    prepare_blocks(model, recipe.parallel)
    _shard(model, ranks.mesh["data"], recipe.parallel.shard, recipe.precision)
    model.to_empty(device=device)
    _fill(model, source, ranks, device)
    return model


def _split_blocks(model: QwenVL, mesh: DeviceMesh) -> None:
    for part, heads in (("vision", model.config.vision.heads), ("language", model.config.language.num_heads)):
        if heads % mesh.size():
            raise RecipeError(
                f"parallel.tensor = {mesh.size()}: the {part} model's {heads} heads can't be shared evenly"
            )
    for blocks, split in ((model.vision.blocks, _VISION_SPLIT), (model.language.blocks, _LANGUAGE_SPLIT)):
        for block in blocks:
            parallelize_module(block, mesh, {name: style() for name, style in split.items()})


def _shard(model: QwenVL, mesh: DeviceMesh, shard: str, precision: str) -> None:
    """Each block and the embedding are units of their own, the rest is one more."""
    mixed = MixedPrecisionPolicy(cast_forward_inputs=False)
    if precision == "bf16":
        mixed = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    again = shard == "parameters"
    for unit in (*blocks_of(model), model.language.embedding, model):
        fully_shard(unit, mesh=mesh, mp_policy=mixed, reshard_after_forward=again and unit is not model)
        sharded = cast(FSDPModule, unit)
        sharded.set_gradient_divide_factor(1.0)  # a sum: the trainer divides by what is supervised on all ranks
        sharded.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "loss")


def delay_reduction(model: QwenVL, config: ParallelConfig, last: bool) -> None:
    """Before the backward pass of a micro-batch: with "optimizer" only the last of a step exchanges gradients."""
    if isinstance(model, FSDPModule) and config.shard == "optimizer":
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)
        model.set_is_last_backward(last)


def _fill(model: QwenVL, source: QwenVL | None, ranks: Ranks, device: str) -> None:
    """Send the first rank's weights round, one tensor at a time, and keep this rank's part of each."""
    whole = source.state_dict() if source is not None else {}
    for name, param in model.state_dict().items():
        full = torch.empty(param.shape, device=device)
        if whole:
            full.copy_(_by_rank(name, whole[name], ranks.tensor_size))
        dist.broadcast(full, src=0)
        param = cast(DTensor, param)
        if _is_split(param):
            split = cast(Shard, param.placements[-1])
            full = full.chunk(ranks.tensor_size, split.dim)[param.device_mesh.get_local_rank("tensor")]
        parts = full.chunk(ranks.data_size)
        if ranks.data_rank < len(parts):  # a short tensor does not reach the last ranks
            param.to_local().copy_(parts[ranks.data_rank])


def whole_model(model: QwenVL, ranks: Ranks) -> QwenVL | None:
    """The model with all its weights on the first rank, on its CPU where they were shared out; all ranks call, the
    others get None."""
    if not isinstance(model, FSDPModule):
        return model if ranks.is_first else None
    state = {}
    for name, param in model.state_dict().items():
        full = cast(DTensor, param).full_tensor()
        if ranks.is_first:
            state[name] = _by_part(name, full.cpu(), ranks.tensor_size)
    if not ranks.is_first:
        return None
    with skeleton():
        gathered = QwenVL(model.config)
    gathered.load_state_dict(state, assign=True)
    return gathered.eval()


def _by_rank(name: str, full: Tensor, size: int) -> Tensor:
    """Rows [q; k; v] of the language model's fused projection -> those of each tensor rank together."""
    fused = size > 1 and ".c_attn." in name
    return full.unflatten(0, (3, size, -1)).transpose(0, 1).flatten(0, 2) if fused else full


def _by_part(name: str, full: Tensor, size: int) -> Tensor:
    """The way back."""
    fused = size > 1 and ".c_attn." in name
    return full.unflatten(0, (size, 3, -1)).transpose(0, 1).flatten(0, 2) if fused else full


def _is_split(tensor: Tensor) -> bool:
    """Whether ranks that share a sample hold different parts of it."""
    return isinstance(tensor, DTensor) and tensor.device_mesh.ndim > 1 and not tensor.placements[-1].is_replicate()


def by_mesh(params: Sequence[Tensor]) -> list[list[Tensor]]:
    """Parameters that one kernel of an optimizer can take together."""
    groups: dict[DeviceMesh | None, list[Tensor]] = {}
    for param in params:
        groups.setdefault(param.device_mesh if isinstance(param, DTensor) else None, []).append(param)
    return list(groups.values())


def gradient_norms(params: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """The norm of each parameter's gradient over all ranks, float32 on their device; 0 where there is none."""
    local = [_local(p.grad) if p.grad is not None else torch.zeros((), device=p.device) for p in params]
    norms = torch.stack(list(torch._foreach_norm(local)))
    if not any(isinstance(p, DTensor) for p in params):
        return norms
    squares = ranks.add(norms.square())
    split = torch.tensor([_is_split(p) for p in params], device=squares.device)
    return torch.where(split, ranks.add(squares * split, "tensor"), squares).sqrt()


def check_replicable(config: ParallelConfig) -> None:
    """RecipeError where a recipe with [lora] asks ranks to share more than the samples."""
    if (config.shard, config.tensor) != (ParallelConfig.shard, ParallelConfig.tensor):
        raise RecipeError(
            f'parallel: with [lora] each rank holds the whole base; set shard = "{ParallelConfig.shard}" and '
            f"tensor = {ParallelConfig.tensor}"
        )


def add_up_gradients(params: Iterable[Tensor], ranks: Ranks) -> None:
    """Sums over the ranks, in place, of the gradients of parameters that lie whole on each; FSDP has added up its own.

    All ranks have the same gradients, since a batch without pictures goes the same way.
    """
    for param in params:
        if param.grad is not None and not isinstance(param, DTensor):
            ranks.add(param.grad)


def local_gradients(params: Iterable[Tensor]) -> list[Tensor]:
    """This rank's part of every gradient there is, to be changed in place."""
    return [_local(p.grad) for p in params if p.grad is not None]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
