"""Synthetic OCR: pictures per second of one core, beside SynthDoG's generator.

.venv/bin/python benchmarks/synth.py > benchmarks/synth.txt

SynthDoG's package does not install any more (its image library is gone), so that its rate is the one measured once on
such a core with 720 to 1024 pixels on the shorter side, as ours has by default; on another machine the ratio says as
much as the two cores are alike. Each measurement is a process of its own, pinned to one core with one thread.
"""

import json
import os
import platform
import subprocess
import sys
import time

from qvl.data.synth.build import SynthConfig, draw

SYNTHDOG = 0.22  # pictures/s
PICTURES, FIRST = 300, 100  # the first load words, fonts and what each font has; they don't count


def rate(fast: bool) -> float:
    """Pictures per CPU second."""
    config = SynthConfig(PICTURES, seed=1, fast=fast)
    for index in range(FIRST):
        draw(config, index)
    start = time.process_time()
    for index in range(FIRST, PICTURES):
        draw(config, index)
    return (PICTURES - FIRST) / (time.process_time() - start)


def main() -> None:
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(rate(sys.argv[1] == "fast")))
        return
    print(f"{platform.machine()}, Python {platform.python_version()}; one core, {PICTURES - FIRST} pictures each")
    for name in ("default", "fast"):
        command = [sys.executable, __file__, name]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        measured = json.loads(done.stdout)
        print(f"{name:8s} {measured:5.1f} pictures/s, {measured / SYNTHDOG:4.0f} times SynthDoG's {SYNTHDOG}")


if __name__ == "__main__":
    main()
