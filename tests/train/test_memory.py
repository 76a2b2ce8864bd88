"""The formulas against torch: what autograd saves of a block, what the allocator gives out in a step."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore

from qvl.model import attention
from qvl.model.config import PRESETS
from qvl.model.language import LanguageBlock, Positions
from qvl.model.precision import fast_kernels, multiplies_bf16
from qvl.model.qwen_vl import QwenVL
from qvl.model.rope import rotary_tables
from qvl.model.vision import VisionBlock
from qvl.train.activations import Arithmetic, Gradients, MicroBatch, language_block, vision_block
from qvl.train.memory import Memory, Setup, moments, num_weights, peak_memory
from qvl.train.optim import build_optimizers, freeze, set_lr
from qvl.train.parallel import delay_reduction, parallelize, prepare_blocks
from qvl.train.ranks import Ranks
from qvl.train.recipe import OptimConfig, ParallelConfig, load_recipe

TINY = PRESETS["tiny"]
ALL = ("vision", "adapter", "language")
BATCH = MicroBatch(rows=4, tokens=96, images=6, supervised=200, isolated=True)


def saved_bytes(block: nn.Module, run: Callable[[], Tensor], outside: list[Tensor]) -> int:
    """Bytes of the storages that autograd keeps of a forward pass: not the weights, nor what is there anyhow."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    there = {t.untyped_storage().data_ptr() for t in [*block.parameters(), *outside, output]}
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in there)


@pytest.mark.parametrize("learns", [True, False], ids=["learns", "frozen"])
@pytest.mark.parametrize("up_to", [0, 1024], ids=["fused", "products"])  # in float32 always the former
@pytest.mark.parametrize("numbers", ["float32", "autocast", "bf16 weights"])
@pytest.mark.parametrize("part", ["vision", "language"])
def test_blocks_keep_what_the_formulas_say(
    part: str, numbers: str, up_to: int, learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1 %: the norms' own sums, a number or two for each place, are left out. The fused kernel of the CPU keeps
    what those of a GPU keep."""
    monkeypatch.setattr(attention, "PRODUCTS_UP_TO", up_to)
    torch.manual_seed(0)
    vision, text = TINY.vision, TINY.language
    block: Any = VisionBlock(vision) if part == "vision" else LanguageBlock(text, 0)
    narrow = torch.bfloat16 if numbers == "bf16 weights" else torch.float32
    block.to(narrow).requires_grad_(learns)
    batch = MicroBatch(2, 64, 3, 0, isolated=True)
    shape = (3, vision.grid**2, vision.width) if part == "vision" else (2, 64, text.hidden_size)
    x = torch.randn(shape, dtype=narrow, requires_grad=True) * 1.0
    rest: tuple[Any, ...] = ()
    outside: list[Tensor] = []
    if part == "language":
        cos, sin = rotary_tables(torch.arange(64)[None], text.head_size, 10000.0, 1.0)
        mask = torch.ones(2, 1, 64, 64, dtype=torch.bool).tril()
        rest, outside = (Positions(cos, sin, None, mask, torch.arange(64)[None]), None), [cos, sin, mask]
    how = Arithmetic.of(numbers != "float32", numbers == "bf16 weights", True)
    formula = vision_block if part == "vision" else language_block
    expected = formula(TINY, batch, how, Gradients(learns, True, 4), 1).saved
    if part == "vision" or narrow is torch.float32:
        outside.append(x)  # the block's input: there since the block before, but reckoned here
        expected -= x.numel() * x.element_size()
    with torch.autocast("cpu", torch.bfloat16, enabled=numbers == "autocast"):
        assert saved_bytes(block, lambda: block(x, *rest), outside) == pytest.approx(expected, rel=0.01)


def allocator_peak(work: Callable[[], None]) -> int:
    """The most bytes that torch's allocator held of what it gave out during the work."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def run_steps(model: QwenVL, setup: Setup, batch: MicroBatch = BATCH) -> None:
    """Two optimizer steps as the trainer takes them."""
    freeze(model, setup.trains)
    optimizers = build_optimizers(model, OptimConfig(peak_lr=1e-3, min_lr=1e-4, warmup_steps=1))
    set_lr(optimizers, 1e-3)
    span = TINY.vision.num_queries + 2
    ids = torch.randint(0, 1000, (batch.rows, batch.tokens))
    for picture in range(batch.images):
        row, place = picture % batch.rows, picture // batch.rows * span
        ids[row, place], ids[row, place + span - 1] = TINY.image_start_id, TINY.image_end_id
    labels = torch.full_like(ids, -100)
    labels[:, -batch.supervised // batch.rows :] = 5
    pixels = torch.randn(batch.images, 3, TINY.vision.image_size, TINY.vision.image_size)
    micro_batches = 1 + setup.accumulates
    for _ in range(2):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        for number in range(micro_batches):
            delay_reduction(model, setup.parallel, last=number + 1 == micro_batches)
            with fast_kernels("cpu", "bf16" if setup.bf16 else "float32"):
                loss, _ = model.loss(ids, labels, pixels, document_ids=torch.zeros_like(ids))
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize(
    ("trains", "bf16", "again", "accumulates"),
    [
        (ALL, False, False, True),
        (("vision", "adapter"), True, False, False),
        (("adapter", "language"), True, False, True),
        (ALL, True, True, False),
    ],
)
def test_a_step_takes_what_is_planned(trains: tuple[str, ...], bf16: bool, again: bool, accumulates: bool) -> None:
    bf16 = bf16 and multiplies_bf16("cpu")  # else the trainer's products are float32, whatever was asked
    setup = Setup(trains, ParallelConfig(checkpoint_activations=again), accumulates=accumulates, bf16=bf16, on_cpu=True)

    def work() -> None:
        model = QwenVL(TINY)
        prepare_blocks(model, setup.parallel)
        run_steps(model, setup)

    assert peak_memory(TINY, BATCH, setup).total == pytest.approx(allocator_peak(work), rel=0.05)


@pytest.mark.parametrize(
    ("shard", "tensor", "accumulates"),
    [("optimizer", 1, True), ("gradients", 2, True), ("parameters", 1, False)],
)
def test_a_rank_of_eight_takes_what_is_planned(shard: str, tensor: int, accumulates: bool) -> None:
    """One process plays the first of them; torch's fake process group sends nothing."""
    parallel = ParallelConfig(shard=shard, tensor=tensor)
    setup = Setup(ALL, parallel, 8 // tensor, accumulates=accumulates, bf16=True, on_cpu=True)
    recipe = replace(load_recipe(Path("recipes/tiny/multitask.toml")), parallel=parallel)
    dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
    try:
        ranks = Ranks(init_device_mesh("cpu", (8 // tensor, tensor), mesh_dim_names=("data", "tensor")))

        def work() -> None:
            model = parallelize(QwenVL(TINY), TINY, ranks, recipe, "cpu")
            run_steps(model, setup)

        assert peak_memory(TINY, BATCH, setup).total == pytest.approx(allocator_peak(work), rel=0.05)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_the_model_s(name: str) -> None:
    with torch.device("meta"):
        model = QwenVL(PRESETS[name])
    for part, count in num_weights(PRESETS[name]).items():
        assert count == sum(p.numel() for p in model.get_submodule(part).parameters())


def published(shard: str, data_ranks: int, tensor: int = 1, again: bool = False) -> Memory:
    """Stage 2's fullest micro-batch, several of them a step."""
    parallel = ParallelConfig(shard=shard, tensor=tensor, checkpoint_activations=again)
    batch = MicroBatch(1, 2048, 7, 2048)
    return peak_memory(PRESETS["qwen-vl"], batch, Setup(ALL, parallel, data_ranks, accumulates=True))


def test_sharding_of_the_published_model() -> None:
    """By hand: 9.66B weights; ZeRO-1 holds whole bf16 weights and whole float32 gradients, ZeRO-2 sheds these, ZeRO-3
    both. A share of float32 weights and of AdamW's moments takes 12 bytes over the ranks."""
    optimizer, gradients, parameters = (published(shard, 64) for shard in ("optimizer", "gradients", "parameters"))
    weights = 9.656e9
    for memory in (optimizer, gradients, parameters):
        assert memory.weights + memory.optimizer == pytest.approx(12 * weights / 64, rel=1e-3)
    assert optimizer.gradients == pytest.approx(4 * weights, rel=1e-3)
    assert gradients.gradients == pytest.approx(4 * weights / 64, rel=1e-3)
    assert optimizer.gathered == pytest.approx(2 * weights, rel=1e-3)
    assert gradients.gathered == pytest.approx(2 * weights, rel=1e-3)
    assert parameters.gathered < 2e9
    assert parameters.total < gradients.total < optimizer.total
    assert published("optimizer", 32, tensor=2).gathered == pytest.approx(optimizer.gathered / 2, rel=0.15)


def test_activation_checkpointing_keeps_the_blocks_inputs_alone() -> None:
    kept, again = published("gradients", 64), published("gradients", 64, again=True)
    inputs = 48 * 4 * 7 * 1024 * 1664  # float32 behind the ViT's norms
    assert again.vision == pytest.approx(inputs, rel=0.15)
    assert kept.vision > 8 * again.vision


def test_more_of_anything_takes_more() -> None:
    config, setup = PRESETS["qwen-vl"], Setup(ALL, ParallelConfig(), 64, accumulates=True)
    batch = MicroBatch(1, 1024, 2, 500)
    least = peak_memory(config, batch, setup).total
    for more in (
        replace(batch, rows=2),
        replace(batch, tokens=2048),
        replace(batch, images=3),
        replace(batch, supervised=1000),
    ):
        assert peak_memory(config, more, setup).total > least, more


def test_no_moment_is_below_what_always_stands() -> None:
    """The walk gives back all that it takes."""
    for shard in ("optimizer", "gradients", "parameters"):
        for accumulates in (False, True):
            setup = Setup(ALL, ParallelConfig(shard=shard), 8, accumulates=accumulates)
            everything = list(moments(PRESETS["qwen-vl"], MicroBatch(1, 512, 1, 100), setup))
            for memory in everything:
                assert min(getattr(memory, kind) for kind in vars(memory) if kind != "moment") >= 0, memory
            assert everything[-1].language < 1e9
