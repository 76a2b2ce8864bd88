"""Cleaning image-text pairs: ours beside decoding alone, which is the floor; ten times the input; two processes;
with a CLIP model; beside data-juicer.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/cleaning.py --write-rates --peer PYTHON > benchmarks/cleaning.txt

Pairs are JPEGs of 640x480 to 1024x768 (about 110 kB) in img2dataset's tars, with data-juicer as files beside JSON
lines. The CLIP model has ViT-B/32's shape and random weights, which are as fast as trained ones. Each measurement
runs in a process of its own, its imports and preparations left out; CPU seconds are those of all its processes,
memory is its peak. PYTHON is that of an environment with py-data-juicer==1.6.1 and aiohttp. --write-rates also
measures every step of cleaning, for `qvl data plan`.
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from qvl import images
from qvl.data.pairs.archive import Member, read_members
from qvl.data.pairs.clip import BATCH, load_clip, prepare
from qvl.data.pairs.rates import CLIP_PAIRS, measure_rates, write_bundled_rates
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


def make_tars(folder: Path, pairs: int, scored: bool = True) -> None:
    """Tars of pairs as img2dataset writes them; forty different pictures, each pair with its own score if scored."""
    rng = random.Random(0)
    pictures = [jpeg(np.random.default_rng(i), SIZES[i % len(SIZES)]) for i in range(40)]
    folder.mkdir(parents=True)
    for start in range(0, pairs, PER_TAR):
        with tarfile.open(folder / f"{start // PER_TAR:05d}.tar", "w") as archive:
            for i in range(start, min(start + PER_TAR, pairs)):
                text = rng.choice(TEXTS)
                fields = {"key": f"{i:09d}", "caption": text}
                if scored:
                    fields["similarity"] = rng.gauss(0.31, 0.04)
                add(archive, f"{i:09d}.jpg", rng.choice(pictures))
                add(archive, f"{i:09d}.txt", text.encode())
                add(archive, f"{i:09d}.json", json.dumps(fields).encode())


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


def make_files(tars: Path, folder: Path) -> None:
    """The same pairs as files beside pairs.jsonl."""
    folder.mkdir()
    lines = []
    for path in sorted(tars.glob("*.tar")):
        for member in read_members(path):
            if isinstance(member, Member) and member.suffix == "jpg":
                (folder / member.name).write_bytes(member.data)
            elif isinstance(member, Member) and member.suffix == "json":
                fields = json.loads(member.data)
                lines.append(json.dumps({**fields, "image_path": f"{fields['key']}.jpg"}, ensure_ascii=False))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def pictures_of(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.tar")):
        yield from (m.data for m in read_members(path) if isinstance(m, Member) and m.suffix == "jpg")


# A job prepares, yields, and then does what is measured.


def decode(folder: Path) -> Iterator[None]:
    """The floor: every picture decoded whole by PIL, nothing else."""
    yield
    for data in pictures_of(folder):
        PILImage.open(io.BytesIO(data)).load()


def probe(folder: Path) -> Iterator[None]:
    """What cleaning does to a picture: read to its end at an eighth of its size."""
    yield
    for data in pictures_of(folder):
        images.probe(data)


def clean(folder: Path, workers: int = 1) -> Iterator[None]:
    """The whole tool, all rules of LAION-en, shards written."""
    yield
    with tempfile.TemporaryDirectory() as out:
        clean_pairs([folder], Path(out) / "out", "laion_en", workers=workers)


def clip(folder: Path) -> Iterator[None]:
    """The same with a model that scores every pair. Random weights fit nothing: the threshold lets all pass."""
    model = folder.parent / "clip"
    load_clip(str(model))
    settings = (resources.files("qvl.assets") / "sources" / "laion_en.toml").read_text(encoding="utf-8")
    source = folder.parent / "clip.toml"
    source.write_text(settings.replace("min = 0.31", "min = -1.0"), encoding="utf-8")
    yield
    with tempfile.TemporaryDirectory() as out:
        clean_pairs([folder], Path(out) / "out", source, clip_model=str(model), workers=1)


def forward(folder: Path, bf16: bool = True) -> Iterator[None]:
    """The floor of that: the model alone on batches of the same size."""
    model, processor = load_clip(str(folder.parent / "clip"))
    pictures = list(pictures_of(folder))
    texts = [TEXTS[i % len(TEXTS)] for i in range(len(pictures))]
    batches = [prepare(processor, pictures[i : i + BATCH], texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
    yield
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for batch in batches:
            model(**batch)


JOBS: dict[str, Callable[[Path], Iterator[None]]] = {
    "decode": decode,
    "probe": probe,
    "clean": clean,
    "clean2": lambda folder: clean(folder, workers=2),
    "clip": clip,
    "forward": forward,
    "float32": lambda folder: forward(folder, bf16=False),
}


def do(job: str, folder: Path) -> None:
    """Prints wall seconds, CPU seconds and peak MB of a job."""
    steps = JOBS[job](folder)
    next(steps)
    start, before = time.perf_counter(), cpu_seconds()
    next(steps, None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - start, cpu_seconds() - before, peak]))


def cpu_seconds() -> float:
    """Of this process and those that it started."""
    return sum(os.times()[:4])


def measure(name: str, folder: Path, pairs: int, command: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds for a pair of a job in a process of its own, also printed."""
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True)
    wall, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    rate = f"{pairs / cpu:8.1f} pairs per CPU s"
    print(f"{name:12s} {pairs:6d} pairs {wall:7.2f} s {cpu:7.2f} CPU s {rate} {peak:6.0f} MB", flush=True)
    return wall / pairs, cpu / pairs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--peer", help="Python of an environment with data-juicer")
    parser.add_argument("--write-rates", action="store_true")
    parser.add_argument("--job", nargs=2, metavar=("JOB", "FOLDER"))
    args = parser.parse_args()
    if args.job:
        do(args.job[0], Path(args.job[1]))
        return
    with tempfile.TemporaryDirectory() as root:
        run(Path(root), args.pairs, args.peer, args.write_rates)


def run(root: Path, pairs: int, peer: str | None, write_rates: bool) -> None:
    small, large, unscored, files = root / "small", root / "large", root / "unscored", root / "files"
    make_tars(small, pairs)
    make_tars(large, 10 * pairs)
    make_tars(unscored, CLIP_PAIRS, scored=False)
    beside = Path(__file__).parent
    subprocess.run([sys.executable, beside / "random_clip.py", root / "clip", *TEXTS], capture_output=True, check=True)
    size = sum(p.stat().st_size for p in small.iterdir()) / pairs / 1000
    print(f"{platform.machine()}, Python {platform.python_version()}; pairs of {size:.0f} kB")

    def ours(job: str, folder: Path, count: int) -> tuple[float, float]:
        return measure(job, folder, count, [sys.executable, __file__, "--job", job])

    decoded, _ = ours("decode", small, pairs), ours("probe", small, pairs)
    once, tenfold = ours("clean", small, pairs), ours("clean", large, 10 * pairs)
    twofold = ours("clean2", large, 10 * pairs)
    print(f"cleaning has {decoded[1] / tenfold[1]:.2f} times the rate of decoding whole pictures")
    print(f"ten times the input takes {10 * tenfold[1] / once[1]:.2f} times the time")
    print(f"two processes take {twofold[1] / tenfold[1]:.2f} times the CPU time of one", end=" ")
    print(f"and have {tenfold[0] / twofold[0]:.2f} times its rate by the clock")

    scored, alone = ours("clip", unscored, CLIP_PAIRS), ours("forward", unscored, CLIP_PAIRS)
    slow = ours("float32", unscored, CLIP_PAIRS)
    print(f"with a CLIP model it has {alone[1] / scored[1]:.2f} times the rate of the model alone")
    print(f"a pair then takes {scored[1] / tenfold[1]:.0f} times as long; in float32 the model takes", end=" ")
    print(f"{slow[1] / alone[1]:.2f} times as long as in bf16")

    if peer:
        make_files(small, files)
        mine = ours("clean", files, pairs)
        theirs = measure("data-juicer", files, pairs, [peer, str(beside / "cleaning_peer.py")])
        print(f"it has {theirs[1] / mine[1]:.1f} times the rate of data-juicer's filters")

    rates = measure_rates([small], "laion_en", str(root / "clip"))
    print("step                CPU ms a pair")
    for step, seconds in rates.seconds.items():
        print(f"{step:20s}{1000 * seconds:13.4f}")
    if write_rates:
        write_bundled_rates(rates)


if __name__ == "__main__":
    main()
