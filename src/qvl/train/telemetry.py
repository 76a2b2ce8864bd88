"""What a run says while it trains: a progress bar and one JSON line per logged step."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm


class Telemetry:
    """Writes log.jsonl and shows the bar. On resume, lines after the resumed step are cut off."""

    def __init__(self, stage_dir: Path, name: str, total_steps: int, first_step: int) -> None:
        self.path = stage_dir / "log.jsonl"
        self.elapsed_before = _keep_lines_before(self.path, first_step)
        self.file = self.path.open("a", encoding="utf-8")
        self.bar = tqdm(total=total_steps, initial=first_step, desc=name, unit="step", dynamic_ncols=True)
        self.start = time.perf_counter()
        self.samples = 0
        self.tokens = 0

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        self.file.close()

    def step(self, step: int, *, samples: int, tokens: int, **values: float) -> None:
        """Log one optimizer step: its values (loss, lr, grad_norm, ...) and the speed so far."""
        self.samples += samples
        self.tokens += tokens
        elapsed = time.perf_counter() - self.start
        record: dict[str, Any] = {
            "step": step,
            **values,
            "samples": samples,
            "tokens": tokens,
            "samples_per_s": round(self.samples / elapsed, 2),
            "tokens_per_s": round(self.tokens / elapsed, 1),
            "elapsed_s": round(self.elapsed_before + elapsed, 2),
        }
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        shown: dict[str, str] = {k: f"{values[k]:.3g}" for k in ("loss", "lr") if k in values}
        shown["samples/s"] = f"{self.samples / elapsed:.0f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()


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
