"""Kill a training again and again and let it go on: it must always resume, and learn what an undisturbed run learns.

.venv/bin/python scripts/check_kills.py [--kills 20] [--seed 1]

Runs of stage 2 of the tiny recipe, small ones: an undisturbed one on one rank, and two that are killed by SIGKILL at
random moments (all ranks, one of two, or while a state is being written), one of them always on one rank, the other on
one rank and two in turn. Prints each kill, then by how much the losses differ at most from the undisturbed run's: by
nothing on one rank; on two, by what another order of sums does in float32.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from qvl.data.sample import LANGUAGES, TASKS, write_shard
from qvl.data.world.tasks import make_sample

RECIPE = Path(__file__).parents[1] / "recipes" / "tiny" / "multitask.toml"
STEPS = 120
VALUES = [
    f"steps={STEPS}",
    "save_every=3",
    "init_from={}",
    "precision=float32",
    "data.split_dirs=['world/train']",
    "data.batch_rows=1",
    "data.streams=2",
    "optim.optimizer=adamw",
    "data.mixture={text = 1.0, vqa = 1.0}",
]


def command(out: Path, ranks: int) -> list[str]:
    flags = [flag for value in VALUES for flag in ("--set", value)]
    return [sys.executable, "-m", "qvl", "train", str(RECIPE), "--out", str(out), "--ranks", str(ranks), *flags]


def start(out: Path, ranks: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(out, ranks), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, start_new_session=True
    )


def log_of(out: Path) -> list[dict[str, Any]]:
    path = out / "multitask" / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def ranks_of(job: subprocess.Popen[bytes]) -> dict[int, int]:
    """Rank -> process, of the processes that the job started."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):  # no process, or one that just ended
            continue
        if parent == job.pid:
            found |= {int(value[5:]): int(folder.name) for value in environment if value.startswith(b"RANK=")}
    return found


def being_written(out: Path) -> bool:
    """Whether a state is half on the disk."""
    folders = (out / "multitask" / "state").glob("step-*")
    return any(not (folder / ".metadata").exists() for folder in folders)


def kill(job: subprocess.Popen[bytes], out: Path, how: str, moment: random.Random) -> str:
    """Wait for a random moment, kill, and return what the job said in the end."""
    begun = len(log_of(out))
    while len(log_of(out)) <= begun and job.poll() is None:  # until it trains
        time.sleep(0.01)
    wait_until = time.monotonic() + moment.uniform(0, 3)
    while time.monotonic() < wait_until and job.poll() is None:
        time.sleep(0.001)
    while how == "while a state is written" and job.poll() is None and not being_written(out):
        time.sleep(0.0005)
    workers = ranks_of(job)
    if how == "one rank" and workers:
        os.kill(workers[moment.choice(sorted(workers))], signal.SIGKILL)
    elif job.poll() is None:
        os.killpg(job.pid, signal.SIGKILL)
        for process in workers.values():
            os.kill(process, signal.SIGKILL)
    asked = time.monotonic()
    said = job.communicate(timeout=60)[1].decode(errors="replace").splitlines()
    return f"ended after {time.monotonic() - asked:.1f} s; {said[-1][:110] if said else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    moment = random.Random(args.seed)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        samples = [make_sample(1, "train", i, task, lang) for task in TASKS for lang in LANGUAGES for i in range(20)]
        for name in ("whole", "killed on one rank", "killed on one and two"):
            write_shard(samples[::2], Path(folder) / name / "world" / "train" / "00000.parquet")
            write_shard(samples[1::2], Path(folder) / name / "world" / "train" / "00001.parquet")
        whole = Path(folder) / "whole"
        start(whole, 1).communicate()
        expected = log_of(whole)
        assert len(expected) == STEPS
        for name, kinds in (
            ("killed on one rank", ("all ranks", "while a state is written")),
            ("killed on one and two", ("one rank", "all ranks", "while a state is written")),
        ):
            out = Path(folder) / name
            for number in range(args.kills // 2):
                ranks = 1 if name.endswith("rank") else 1 + number % 2
                how = moment.choice(kinds if ranks > 1 else [kind for kind in kinds if kind != "one rank"])
                said = kill(start(out, ranks), out, how, moment)
                print(f"{name}, {number + 1}: {how} of {ranks}, at step {len(log_of(out))}; {said}", flush=True)
            last = start(out, 1)
            said = last.communicate()[1].decode(errors="replace")
            found = log_of(out)
            if last.returncode or [line["step"] for line in found] != list(range(STEPS)):
                print(f"{name}: did not come to its end: {said[-500:]}")
                return 1
            worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(expected, found, strict=True))
            same = all([a[k] for a in expected] == [b[k] for b in found] for k in ("samples", "images", "tokens"))
            print(f"{name}: the losses differ by at most {worst:.3g}; same samples and tokens at each step: {same}")
            if not same or worst > (0 if name.endswith("rank") else 1e-2):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
