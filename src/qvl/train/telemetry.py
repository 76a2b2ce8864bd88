"""What a run says while it trains: a progress bar, one JSON line a step, and what else is asked for."""

import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm

from qvl.train.devices import device_reported
from qvl.train.flops import mfu
from qvl.train.measure import Seen
from qvl.train.ranks import Ranks
from qvl.train.recipe import Recipe
from qvl.train.sinks import open_sink

LOG_NAME = "log.jsonl"


class Telemetry:
    """The first rank writes log.jsonl and shows the bar. On resume, lines after the resumed step are cut off."""

    def __init__(
        self, stage_dir: Path, recipe: Recipe, first_step: int, device: str, ranks: Ranks, log_to: Sequence[str] = ()
    ) -> None:
        """log_to: sinks that get the numbers too."""
        self.speaks, self.device = ranks.is_first, device
        self.start = time.perf_counter()
        self.samples = self.images = self.tokens = 0
        self.operations = 0.0
        self.gpus = ranks.data_size * ranks.tensor_size
        gpu = device_reported(torch.cuda.get_device_name(device)) if device.startswith("cuda") else None
        self.peak = gpu.peak_flops if gpu else None  # FLOP/s of one
        if self.speaks:
            path = stage_dir / LOG_NAME
            self.sinks = [open_sink(name, stage_dir, recipe, first_step) for name in log_to]
            self.elapsed_before = _keep_lines_before(path, first_step)
            self.file = path.open("a", encoding="utf-8")
            self.bar = tqdm(total=recipe.steps, initial=first_step, desc=recipe.name, unit="step", dynamic_ncols=True)

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.speaks:
            self.bar.close()
            self.file.close()
            for sink in self.sinks:
                sink.close()

    def step(
        self, step: int, lr: float, seen: Seen, grad_norm: float, grad_norms: dict[str, float], fault: str | None
    ) -> None:
        """One optimizer step: its values and the speed so far (of all ranks, on real tokens)."""
        if not self.speaks:
            return
        self.samples += seen.samples
        self.images += seen.images
        self.tokens += seen.tokens
        self.operations += seen.operations
        elapsed = time.perf_counter() - self.start
        record: dict[str, Any] = {
            "step": step,
            "loss": seen.loss,
            "lr": lr,
            "grad_norm": round(grad_norm, 4),
            "grad_norms": {part: round(norm, 4) for part, norm in grad_norms.items()},
            "samples": seen.samples,
            "images": seen.images,
            "tokens": seen.tokens,
            "samples_per_s": round(self.samples / elapsed, 2),
            "images_per_s": round(self.images / elapsed, 2),
            "tokens_per_s": round(self.tokens / elapsed, 1),
            "tflop_per_s": round(self.operations / elapsed / 1e12, 4),
            "data_wait_s": round(seen.waited_s, 4),
            "peak_memory_gb": round(_peak_memory(self.device) / 1e9, 3),
            "elapsed_s": round(self.elapsed_before + elapsed, 2),
        }
        if self.peak:
            record["mfu"] = round(mfu(self.operations, elapsed, self.gpus, self.peak), 4)
        if fault:
            record["skipped"] = fault
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        numbers = {name: value for name, value in record.items() if name != "step" and isinstance(value, int | float)}
        for sink in self.sinks:
            sink.write(step, numbers | {f"grad_norms/{part}": norm for part, norm in grad_norms.items()})
        shown = {"loss": f"{seen.loss:.3g}", "lr": f"{lr:.3g}", "samples/s": f"{self.samples / elapsed:.0f}"}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()


def _peak_memory(device: str) -> int:
    """Bytes: of tensors on a GPU, of the whole process on the CPU; of this rank."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _keep_lines_before(path: Path, first_step: int) -> float:
    """Drop the log's lines from first_step on (and a half-written last one); seconds spent before."""
    kept, elapsed = [], 0.0
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if record["step"] < first_step:
                kept.append(line)
                elapsed = record["elapsed_s"]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return elapsed
