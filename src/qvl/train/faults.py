"""Steps that must not move the weights: losses that are no numbers, gradients out of all proportion."""

import json
import math
from collections import deque
from pathlib import Path
from statistics import median

from qvl.errors import TrainingError
from qvl.train.measure import Seen
from qvl.train.ranks import Ranks
from qvl.train.recipe import OptimConfig

SKIPPED_NAME = "skipped.jsonl"
USUAL_OF = 100  # steps whose gradient norms say what is usual
USUAL_AFTER = 20  # so many are needed for that
MAX_SKIPPED = 10  # in a row


class Faults:
    """Judges steps, notes those that are skipped, and ends a run in which nothing else happens."""

    def __init__(self, stage_dir: Path, optim: OptimConfig, ranks: Ranks) -> None:
        self.path, self.optim, self.ranks = stage_dir / SKIPPED_NAME, optim, ranks
        self.norms: deque[float] = deque(maxlen=USUAL_OF)
        self.in_row = 0

    def judge(self, step: int, seen: Seen, norm: float) -> str | None:
        """Why this step has to be skipped; None for a good one. TrainingError after MAX_SKIPPED in a row."""
        if not (fault := self._fault(seen.loss, norm)):
            self.norms.append(norm)
            self.in_row = 0
            return None
        self.in_row += 1
        self._note(step, fault, seen, norm)
        if self.in_row == MAX_SKIPPED:
            raise TrainingError(
                f"{self.in_row} steps in a row were skipped, the last because {fault}: lower optim.peak_lr, "
                f"or leave out the samples that {self.path} names"
            )
        return fault

    def _fault(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not math.isfinite(norm):
            return f"its gradient's norm is {norm}"
        # Where the loss nears zero, the few samples not yet learnt stand out: what needs no clipping is never too much.
        if len(self.norms) < USUAL_AFTER or norm <= self.optim.grad_clip:
            return None
        if norm > self.optim.skip_above * (usual := median(self.norms)):
            return f"its gradient's norm is {norm:.3g}, usual is {usual:.3g}"
        return None

    def _note(self, step: int, fault: str, seen: Seen, norm: float) -> None:
        """Write down the step with its samples: those of the micro-batches without a loss, else all."""
        mine = [(math.isfinite(loss), ids) for loss, ids in seen.micro_batches]
        found = [pair for pairs in self.ranks.gather(mine) for pair in pairs]
        guilty = [ids for finite, ids in found if not finite] or [ids for _, ids in found]
        samples = sorted({sample for ids in guilty for sample in ids})
        if self.ranks.is_first:
            record = {"step": step, "fault": fault, "loss": str(seen.loss), "grad_norm": str(norm), "samples": samples}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            shown = ", ".join(samples[:3]) + (f" and {len(samples) - 3} more" if len(samples) > 3 else "")
            print(f"\nstep {step} skipped: {fault}; its samples ({shown}) are in {self.path}", flush=True)
