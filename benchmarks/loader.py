"""The loader: pictures per second on one core beside plain PIL and the decoder alone; memory; rows; balance.

.venv/bin/python benchmarks/loader.py > benchmarks/loader.txt

Samples are JPEGs of 640x480 to 2048x1536 with a question, read at 448 x 448 in rows of 2048 tokens. Each measurement
runs in a process of its own, pinned to one core with one thread; memory is that process's peak.
"""

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from cleaning import jpeg
from qvl import images
from qvl.data.loader import Loader
from qvl.data.packing import pack
from qvl.data.sample import Sample, Turn, read_split, write_split
from qvl.text.markup import Image, Text
from qvl.text.tokenizer import Tokenizer

SIDE, PLACES, ROW = 448, 256, 2048
SIZES = ((640, 480), (800, 600), (1024, 768), (480, 640), (1600, 1200), (2048, 1536))
PICTURES = 400  # read in each measurement
STRETCHES = 8  # planned to see how full rows are


def write_samples(folder: Path, count: int) -> None:
    """Questions of different lengths about thirty different pictures."""
    pictures = [jpeg(np.random.default_rng(i), SIZES[i % len(SIZES)]) for i in range(30)]
    random = np.random.default_rng(0)

    def samples() -> Iterator[Sample]:
        for i in range(count):
            question = Text("What is to be seen here? " * int(random.integers(1, 40)) + "Answer:")
            turns = (Turn("user", (Image(0), question)), Turn("assistant", (Text("Nothing."),)))
            yield Sample(f"{i}", "vqa", "en", (pictures[i % len(pictures)],), turns, {})

    write_split(samples(), folder, "vqa")


def loader(folder: Path) -> Loader:
    """As the recipe of stage 2 asks for it."""
    return Loader(
        [folder],
        Tokenizer.tiny(),
        {"vqa": 1.0},
        batch_rows=4,
        row_length=ROW,
        packing="interleaved",
        loss_by="token",
        image_size=SIDE,
        num_image_tokens=PLACES,
        seed=0,
    )


def pictures(folder: Path) -> Iterator[bytes]:
    return islice((sample.images[0] for sample in read_split(folder)), PICTURES)


def decode(folder: Path) -> dict[str, float]:
    """PIL decodes and does nothing else."""
    return per_second(folder, lambda data: PILImage.open(io.BytesIO(data)).load())


def decode_scaled(folder: Path) -> dict[str, float]:
    """The same, at the smallest of libjpeg's scales that is not below 448."""

    def work(data: bytes) -> None:
        picture = PILImage.open(io.BytesIO(data))
        picture.draft("RGB", (SIDE, SIDE))
        picture.load()

    return per_second(folder, work)


def plain_pil(folder: Path) -> dict[str, float]:
    """What the published code does: decode, resize, normalise."""
    return per_second(folder, lambda data: images.preprocess(data, SIDE))


def training_pixels(folder: Path) -> dict[str, float]:
    """The loader's own reading of a picture, without the loader."""
    return per_second(folder, lambda data: images.training_pixels(data, SIDE))


def per_second(folder: Path, work: Callable[[bytes], object]) -> dict[str, float]:
    encoded = list(pictures(folder))
    start = time.perf_counter()
    for data in encoded:
        work(data)
    return {"pictures/s": len(encoded) / (time.perf_counter() - start)}


def whole(folder: Path) -> dict[str, float]:
    """Batches of the loader, everything in them."""
    batches = iter(loader(folder))
    next(batches)
    start, seen = time.perf_counter(), 0
    while seen < PICTURES:
        batch, _ = next(batches)
        seen += len(batch.sample_ids)
    return {"pictures/s": seen / (time.perf_counter() - start)}


def rows(folder: Path) -> dict[str, float]:
    """How full rows are, how even batches are, what planning costs; nothing is decoded."""
    source = loader(folder).streams[0]
    state, waiting, batches = source.state, [], []
    start = time.perf_counter()
    for _ in range(STRETCHES):
        stretch = source.plan(state, waiting)
        state, waiting = stretch.after, stretch.waiting
        batches += stretch.batches
    seconds = time.perf_counter() - start
    lengths = [[sum(drawn.length for drawn in row) for row in batch] for batch in batches]
    shown = [sum(drawn.num_images for row in batch for drawn in row) for batch in batches]
    samples = sum(len(row) for batch in batches for row in batch)
    drawn = [drawn.length for batch in batches for row in batch for drawn in row]
    start = time.perf_counter()
    pack(drawn, ROW)
    packing = time.perf_counter() - start
    return {
        "fill": float(np.mean(lengths)) / ROW,
        "most pictures of a batch / mean": max(shown) / float(np.mean(shown)),
        "planning with reading and tokenising, us a sample": 1e6 * seconds / samples,
        "of it packing, us a sample": 1e6 * packing / samples,
    }


JOBS: dict[str, Callable[[Path], dict[str, float]]] = {
    job.__name__: job for job in (decode, decode_scaled, plain_pil, training_pixels, whole, rows)
}


def measure(job: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--job", job, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.job:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
        figures = JOBS[args.job](args.folder)
        figures["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as root:
        small, large = Path(root) / "small", Path(root) / "large"
        write_samples(small, args.samples)
        write_samples(large, 10 * args.samples)
        size = sum(p.stat().st_size for p in small.iterdir()) / args.samples / 1000
        print(f"{platform.machine()}, Python {platform.python_version()}; samples of {size:.0f} kB, one core")
        rate = {}
        for job, folder in [(job, small) for job in JOBS] + [("whole", large)]:
            figures = measure(job, folder)
            rate[job] = figures.get("pictures/s", 0.0)
            count = args.samples * (10 if folder == large else 1)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"{job:16s} {count:6d} samples: {shown}")
        for peer in ("plain_pil", "decode", "decode_scaled"):
            print(f"the loader has {rate['whole'] / rate[peer]:.2f} times the rate of {peer}")


if __name__ == "__main__":
    main()
