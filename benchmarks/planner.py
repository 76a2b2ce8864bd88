"""The planner's memory beside what torch allocates: the peak of optimizer steps of many models, on the CPU each in a
process.

    .venv/bin/python benchmarks/planner.py > benchmarks/planner.txt

On the CPU "tensors" is the most that torch's allocator held at once, by the profiler's record of every allocation and
release, scratch of the kernels included. "process" is by how much the process grew (peak of its resident memory less
what it took before there was a model), in a run without the profiler; glibc is told to give every block above 64 kB
back to the system at once, or its arenas would be measured. `--device cuda` asks torch.cuda.max_memory_allocated.

Models are stepped as the trainer does it, twice, so that the optimizer has its state. Several ranks are played by one
process with torch's fake process group: it holds what the first of them would hold, and nothing is sent.
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile, record_function
from torch.testing._internal.distributed.fake_pg import FakeStore

from qvl.data.loader import Batch
from qvl.model.config import LanguageConfig, QwenVLConfig, VisionConfig
from qvl.model.qwen_vl import QwenVL
from qvl.text.special_tokens import IGNORE_INDEX
from qvl.train.activations import MicroBatch
from qvl.train.measure import accumulate, token_measure
from qvl.train.memory import Memory, Setup, num_weights, peak_memory
from qvl.train.optim import build_optimizers, freeze, set_lr
from qvl.train.parallel import parallelize, prepare_blocks
from qvl.train.ranks import ALONE, Ranks
from qvl.train.recipe import OptimConfig, ParallelConfig, Recipe, load_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "tiny" / "multitask.toml"
ALL, STAGE_1, STAGE_3 = ("vision", "adapter", "language"), ("vision", "adapter"), ("adapter", "language")
STEPS = 2


@dataclass(frozen=True)
class Case:
    """A model, what it reads at once, and how it trains."""

    name: str
    width: int = 384  # of the ViT, whose heads are 64 wide
    vision_layers: int = 6
    image_size: int = 224
    hidden: int = 512  # of the language model, whose heads are 64 wide
    language_layers: int = 6
    inner: int = 1408
    vocabulary: int = 8192
    batch: MicroBatch = field(default_factory=lambda: MicroBatch(4, 384, 4, 600))
    trains: tuple[str, ...] = ALL
    precision: str = "bf16"
    accumulation: int = 1
    ranks: int = 1
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    optimizer: str = "adamw"

    @property
    def config(self) -> QwenVLConfig:
        """The model's sizes."""
        vision = VisionConfig(
            image_size=self.image_size,
            width=self.width,
            layers=self.vision_layers,
            heads=self.width // 64,
            mlp_ratio=4.0,
            output_dim=self.hidden,
            num_queries=64,
            adapter_head_size=64,
        )
        language = LanguageConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_layers=self.language_layers,
            num_heads=self.hidden // 64,
            intermediate_size=2 * self.inner,
        )
        return QwenVLConfig(vision, language, image_start_id=self.vocabulary - 8)

    @property
    def recipe(self) -> Recipe:
        """What the trainer's functions ask."""
        recipe = load_recipe(RECIPE)
        optim = OptimConfig(peak_lr=1e-4, min_lr=1e-5, warmup_steps=1, optimizer=self.optimizer)
        return replace(
            recipe,
            trains=self.trains,
            grad_accumulation=self.accumulation,
            data=replace(recipe.data, streams=self.ranks // self.parallel.tensor),
            optim=optim,
            parallel=self.parallel,
            precision=self.precision,
        )

    def predicted(self, on_cpu: bool) -> Memory:
        """The planner's word."""
        setup = Setup(
            self.trains,
            self.parallel,
            self.ranks // self.parallel.tensor,
            accumulates=self.accumulation > 1,
            bf16=self.precision == "bf16",
            muon=self.optimizer == "muon",
            on_cpu=on_cpu,
        )
        return peak_memory(self.config, self.batch, setup)


def shared(shard: str, tensor: int = 1, again: bool = False) -> ParallelConfig:
    return ParallelConfig(shard=shard, tensor=tensor, checkpoint_activations=again)


CASES = [
    Case("everything trains"),
    Case("float32", precision="float32"),
    Case("stage 1: language model frozen", trains=STAGE_1),
    Case("stage 3: ViT frozen", trains=STAGE_3),
    Case("language model alone, deep", trains=("language",), language_layers=16, vision_layers=1),
    Case("ViT deep, language model frozen", trains=STAGE_1, vision_layers=16, language_layers=2),
    Case("large pictures", image_size=448, batch=MicroBatch(2, 384, 2, 300), vision_layers=4, language_layers=2),
    Case("many small pictures", image_size=112, batch=MicroBatch(4, 512, 24, 600)),
    Case("rows of two samples apart", batch=MicroBatch(4, 768, 4, 600, isolated=True)),
    Case("wide, short rows", width=768, hidden=1024, inner=2816, batch=MicroBatch(2, 96, 2, 60)),
    Case("long rows", batch=MicroBatch(1, 1536, 2, 900), vision_layers=2),
    Case("large vocabulary, logits whole", vocabulary=65536, batch=MicroBatch(4, 512, 4, 1500), language_layers=2),
    Case("large vocabulary, logits in chunks", vocabulary=151936, hidden=256, batch=MicroBatch(4, 512, 4, 1900)),
    Case("activation checkpointing", parallel=shared("optimizer", again=True), batch=MicroBatch(8, 512, 8, 900)),
    Case(
        "activation checkpointing, float32",
        parallel=shared("optimizer", again=True),
        precision="float32",
        batch=MicroBatch(8, 512, 8, 900),
    ),
    Case("two micro-batches", accumulation=2),
    Case("Muon", optimizer="muon", hidden=768, inner=2048),
    Case("4 ranks, optimizer", ranks=4, parallel=shared("optimizer")),
    Case("4 ranks, optimizer, two micro-batches", ranks=4, parallel=shared("optimizer"), accumulation=2),
    Case("4 ranks, gradients, wide", ranks=4, parallel=shared("gradients"), hidden=1024, inner=2816),
    Case("64 ranks, parameters, stage 3", ranks=64, parallel=shared("parameters"), trains=STAGE_3, accumulation=2),
    Case("8 ranks, 2 of them share samples", ranks=8, parallel=shared("optimizer", tensor=2), accumulation=2),
    Case("8 ranks, parameters, checkpointing", ranks=8, parallel=shared("parameters", again=True), hidden=1024),
]


def make_batch(case: Case) -> Batch:
    """Random tokens; pictures at the start of the rows, supervised tokens at their end."""
    config, batch = case.config, case.batch
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.image_start_id, (batch.rows, batch.tokens), generator=generator)
    labels, span = torch.full_like(ids, IGNORE_INDEX), config.vision.num_queries + 2
    for row in range(batch.rows):
        for picture in range(len(range(row, batch.images, batch.rows))):
            ids[row, picture * span] = config.image_start_id
            ids[row, (picture + 1) * span - 1] = config.image_end_id
        supervised = len(range(row, batch.supervised, batch.rows))
        labels[row, batch.tokens - supervised :] = ids[row, batch.tokens - supervised :]
    side = config.vision.image_size
    pixels = torch.randint(0, 256, (batch.images, 3, side, side), dtype=torch.uint8, generator=generator)
    documents = torch.arange(batch.tokens).mul(2).div(batch.tokens, rounding_mode="floor").expand_as(ids)
    return Batch(ids, labels, documents if batch.isolated else torch.zeros_like(ids), pixels, None, ())


def prepare(case: Case, device: str) -> Callable[[], None]:
    """The model and its optimizers; what the trainer does with them for STEPS optimizer steps."""
    recipe, batch, ranks = case.recipe, make_batch(case), play_ranks(case, device)
    if ranks is ALONE:
        model = QwenVL(case.config).to(device)
        prepare_blocks(model, case.parallel)
    else:
        model = parallelize(QwenVL(case.config), case.config, ranks, recipe, device)
    freeze(model, case.trains)
    model.train()
    optimizers = build_optimizers(model, recipe.optim)
    set_lr(optimizers, 1e-4)
    measure = token_measure(model, recipe, device)

    def steps() -> None:
        for _ in range(STEPS):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            accumulate(repeat((batch, {})), measure, recipe, model, ranks)
            for optimizer in optimizers:
                optimizer.step()

    gc.collect()  # the whole model that the ranks' shares were taken from
    return steps


def play_ranks(case: Case, device: str) -> Ranks:
    """The first of the case's ranks."""
    if case.ranks == 1:
        return ALONE
    if dist.is_initialized():  # by the case before
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=0, world_size=case.ranks, store=FakeStore())
    shape = case.ranks // case.parallel.tensor, case.parallel.tensor
    return Ranks(init_device_mesh(device, shape, mesh_dim_names=("data", "tensor")))


def status_bytes(name: str) -> int:
    """A line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def grown_by(case: Case) -> int:
    """Bytes of the process's resident memory at the peak of the steps, less those before there was a model."""
    before = status_bytes("VmRSS")
    steps = prepare(case, "cpu")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    steps()
    return status_bytes("VmHWM") - before


def allocated(case: Case) -> int:
    """The most bytes that torch's CPU allocator held during the steps, of what it gave out since the model was made."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        steps = prepare(case, "cpu")
        with record_function("steps"):
            steps()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held, peak, counts = 0, 0, False
    for event in events:
        counts = counts or event.name() == "steps"
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held) if counts else 0
    return peak


def measure_case(number: int, device: str) -> dict[str, int]:
    """In this process: bytes of tensors at the peak, and on the CPU of the process."""
    case = CASES[number]
    if device != "cpu":
        gc.collect()  # the case before
        steps = prepare(case, device)
        torch.cuda.reset_peak_memory_stats(device)
        steps()
        return {"tensors": torch.cuda.max_memory_allocated(device)}
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # libraries start
    process = grown_by(case)
    gc.collect()
    return {"process": process, "tensors": allocated(case)}


def in_own_process(number: int) -> dict[str, int]:
    command = [sys.executable, __file__, "--device", "cpu", "--case", str(number)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"{CASES[number].name}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", type=int, help="measure this one alone, in this process")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    args = parser.parse_args()
    if args.case is not None:
        print(json.dumps(measure_case(args.case, args.device)))
        return
    on_cpu = args.device == "cpu"
    where = platform.machine() if on_cpu else torch.cuda.get_device_name(args.device)
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}; GB = 10^9 bytes\n")
    print(f"{'':40}parameters  planned  tensors   error  process   at the peak")
    errors = []
    for number, case in enumerate(CASES):
        if args.only not in case.name:
            continue
        planned = case.predicted(on_cpu)
        measured = in_own_process(number) if on_cpu else measure_case(number, args.device)
        errors.append(planned.total / measured["tensors"] - 1)
        process = f"{measured['process'] / 1e9:9.3f}" if "process" in measured else " " * 9
        print(
            f"{case.name:40}{sum(num_weights(case.config).values()) / 1e6:9.1f}M{planned.total / 1e9:9.3f}"
            f"{measured['tensors'] / 1e9:9.3f}{errors[-1]:+8.1%}{process}   {planned.moment}",
            flush=True,
        )
    print(f"\n{len(errors)} configurations: the largest error is {max(map(abs, errors)):.1%}")


if __name__ == "__main__":
    main()
