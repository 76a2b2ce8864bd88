"""Cleaning image-text pairs: ours beside decoding alone, which is the floor; ten times the input; two processes.

.venv/bin/python benchmarks/cleaning.py > benchmarks/cleaning.txt

Pairs are JPEGs of 640x480 to 1024x768 (about 110 kB) in img2dataset's tars. Each measurement runs in a process of
its own with one thread per worker; memory is that process's peak.
"""

import argparse
import io
import json
import platform
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from qvl import images
from qvl.data.pairs.archive import Member, read_members
from qvl.data.pairs.run import clean_pairs

PER_TAR = 500
SIZES = ((640, 480), (800, 600), (1024, 768), (480, 640))
TEXTS = (
    "a red kite over a field",
    "Buy <b>cheap</b> shoes &amp; bags!!!!",
    "IMG_2031.JPG sunset over the bay - Stock Photo #123",
    "Красная площадь",
    "funny cat 😂",
    "中文标题，很好看的照片",
    "a quiet harbour at dawn with fishing boats",
)


def make_tars(folder: Path, pairs: int) -> None:
    """Tars of pairs as img2dataset writes them; forty different pictures, each pair with its own scores."""
    rng = random.Random(0)
    pictures = [jpeg(np.random.default_rng(i), SIZES[i % len(SIZES)]) for i in range(40)]
    folder.mkdir(parents=True)
    for start in range(0, pairs, PER_TAR):
        with tarfile.open(folder / f"{start // PER_TAR:05d}.tar", "w") as archive:
            for i in range(start, min(start + PER_TAR, pairs)):
                text = rng.choice(TEXTS)
                scores = {"key": f"{i:09d}", "caption": text, "similarity": rng.gauss(0.31, 0.04)}
                add(archive, f"{i:09d}.jpg", rng.choice(pictures))
                add(archive, f"{i:09d}.txt", text.encode())
                add(archive, f"{i:09d}.json", json.dumps(scores).encode())


def jpeg(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Detail at several scales, as a photograph has it."""
    layers = [
        rng.normal(0, 40 / scale, (size[1] // 2 ** (6 - scale) + 1, size[0] // 2 ** (6 - scale) + 1, 3))
        for scale in (1, 2, 3, 4)
    ]
    total = np.full((size[1], size[0], 3), 128.0)
    for layer in layers:
        planes = [
            PILImage.fromarray(layer[..., c].astype(np.float32)).resize(size, PILImage.Resampling.BICUBIC)
            for c in range(3)
        ]
        total += np.stack([np.asarray(plane) for plane in planes], axis=-1)
    buffer = io.BytesIO()
    PILImage.fromarray(total.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def pictures_of(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.tar")):
        yield from (m.data for m in read_members(path) if isinstance(m, Member) and m.suffix == "jpg")


def decode(folder: Path) -> None:
    """The floor: every picture decoded whole by PIL, nothing else."""
    for data in pictures_of(folder):
        PILImage.open(io.BytesIO(data)).load()


def probe(folder: Path) -> None:
    """What cleaning does to a picture: read to its end at an eighth of its size."""
    for data in pictures_of(folder):
        images.probe(data)


def clean(folder: Path, workers: int = 1) -> None:
    """The whole tool, all rules of LAION-en, shards written."""
    with tempfile.TemporaryDirectory() as out:
        clean_pairs([folder], Path(out) / "out", "laion_en", workers=workers)


JOBS: dict[str, Callable[[Path], None]] = {
    "decode": decode,
    "probe": probe,
    "clean": clean,
    "clean2": lambda folder: clean(folder, workers=2),
}


def measure(job: str, folder: Path) -> tuple[float, float]:
    """(seconds, peak MB) of a job in a process of its own."""
    command = [sys.executable, __file__, "--job", job, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.job:
        start = time.perf_counter()
        JOBS[args.job](args.folder)
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
        return
    with tempfile.TemporaryDirectory() as root:
        small, large = Path(root) / "small", Path(root) / "large"
        make_tars(small, args.pairs)
        make_tars(large, 10 * args.pairs)
        size = sum(p.stat().st_size for p in small.iterdir()) / args.pairs / 1000
        print(f"{platform.machine()}, Python {platform.python_version()}; pairs of {size:.0f} kB")
        plan = (
            ("decode", small, 1),
            ("probe", small, 1),
            ("clean", small, 1),
            ("clean", large, 10),
            ("clean2", large, 10),
        )
        taken = {}
        for job, folder, times in plan:
            seconds, peak = measure(job, folder)
            taken[job, times] = seconds / times / args.pairs
            rate = 1 / taken[job, times]
            print(f"{job:7s} {times * args.pairs:6d} pairs {seconds:7.2f} s {rate:7.0f} pairs/s {peak:6.0f} MB")
        print(f"cleaning has {taken['decode', 1] / taken['clean', 10]:.2f} times the rate of decoding whole pictures")
        print(f"ten times the input takes {10 * taken['clean', 10] / taken['clean', 1]:.2f} times the time")
        print(f"two processes have {taken['clean', 10] / taken['clean2', 10]:.2f} times the rate of one")


if __name__ == "__main__":
    main()
