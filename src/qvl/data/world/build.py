"""The world on disk: shards of samples with a fixed held-out split, and the vision warm-up's pictures."""

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from qvl.data.engine import run_jobs
from qvl.data.lint import lint
from qvl.data.sample import LANGUAGES, Sample, write_shard
from qvl.data.world.draw import DENSE_CHANNELS, dense_labels, draw_scene
from qvl.data.world.scene import SIDE, fonts_for, make_scene
from qvl.data.world.tasks import TASK_SHARES, make_sample
from qvl.data.world.words import COLOURS, KINDS, PLACES, RELATIONS, SIZES, ZH_GLYPHS
from qvl.errors import DataError, UsageError
from qvl.files import replacing
from qvl.text import prompts
from qvl.text.markup import Box, Ref, Text, to_string

SHARD_SIZE = 1000
SPLITS = ("train", "test")
PHOTO_FOLDERS = (Path("/usr/share/backgrounds"), Path("/usr/share/wallpapers"))
# Kinds of scene in the vision warm-up: more letters than elsewhere, because they take longest to learn.
_DENSE_KINDS = {"things": 0.35, "words": 0.35, "sign": 0.25, "chart": 0.05}
_DRAWN_WORD = re.compile(r" ?\b[A-Z]{2,}\b")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class WorldConfig:
    """What `qvl world` writes. photos: a folder of photographs, "" for the system's own."""

    seed: int = 7
    train: int = 24000
    test: int = 1600
    photos: str = ""

    def __post_init__(self) -> None:
        if min(self.train, self.test) < 1:
            raise UsageError(f"train = {self.train}, test = {self.test}: each split needs at least 1 sample")


def find_photos(folder: str = "") -> tuple[Path, ...]:
    """Photographs for backgrounds, in a fixed order; none is fine. UsageError for a folder without any."""
    folders = [Path(folder)] if folder else [f for f in PHOTO_FOLDERS if f.is_dir()]
    found = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
    if folder and not found:
        raise UsageError(f"{folder}: no photographs ({', '.join(PHOTO_SUFFIXES)}) here")
    return tuple(found)


def plan_split(config: WorldConfig, split: str) -> list[tuple[int, str, str]]:
    """(index, task, language) of every sample: each task's share, half in each language, shuffled."""
    total = config.train if split == "train" else config.test
    rng = random.Random(f"{config.seed}/{split}")
    tasks = rng.choices(list(TASK_SHARES), list(TASK_SHARES.values()), k=total)
    return [(i, task, LANGUAGES[rng.randrange(2)]) for i, task in enumerate(tasks)]


def write_world(out_dir: Path, config: WorldConfig, workers: int | None = None) -> dict[str, Counter[str]]:
    """Write OUT/train and OUT/test; samples by task of each split. Any number of workers, same bytes.

    A split already there is replaced; DataError if a sample breaks a rule of the linter.
    """
    photos = find_photos(config.photos)
    for language in LANGUAGES:
        fonts_for(language)
    jobs = []
    for split in SPLITS:
        shutil.rmtree(out_dir / split, ignore_errors=True)
        plan = plan_split(config, split)
        for number, start in enumerate(range(0, len(plan), SHARD_SIZE)):
            path = out_dir / split / f"{number:05d}.parquet"
            jobs.append((config.seed, split, plan[start : start + SHARD_SIZE], photos, path))
    counts = {split: Counter[str]() for split in SPLITS}
    for split, tasks in run_jobs(_write_one_shard, jobs, "world", workers=workers):
        counts[split] += tasks
    return counts


def _write_one_shard(
    job: tuple[int, str, list[tuple[int, str, str]], tuple[Path, ...], Path],
) -> tuple[str, Counter[str]]:
    seed, split, plan, photos, path = job
    samples = [
        make_sample(seed, split, i, task, language, photos, several=split == "train") for i, task, language in plan
    ]
    for sample in samples:
        if problems := lint(sample):
            raise DataError(f"sample {sample.id}: {problems[0]}")
    write_shard(samples, path)
    return split, Counter(sample.task for sample in samples)


def write_dense(out_dir: Path, seed: int, count: int, grid: int, workers: int | None = None, photos: str = "") -> None:
    """Pictures and what lies under each of grid x grid patches, for the vision warm-up.

    OUT/pictures.npy (count, SIDE, SIDE, 3) uint8; OUT/labels.npy (count, grid, grid, channels) int16.
    Half of the words are spelled at random, so that letters are learnt one by one, and most pictures are
    crowded: each then teaches several times as much.
    """
    if count < 1:
        raise UsageError(f"dense = {count}: the vision warm-up needs at least 1 picture")
    found = find_photos(photos)
    jobs = [(seed, start, min(SHARD_SIZE, count - start), grid, found) for start in range(0, count, SHARD_SIZE)]
    parts = run_jobs(_draw_dense, jobs, "dense labels", workers=workers)
    with replacing(out_dir / "pictures.npy") as first, replacing(out_dir / "labels.npy") as second:
        pictures = open_memmap(first, "w+", np.uint8, (count, SIDE, SIDE, 3))
        labels = open_memmap(second, "w+", np.int16, (count, grid, grid, len(DENSE_CHANNELS)))
        for (_, start, number, _, _), (drawn, named) in zip(jobs, parts, strict=True):
            pictures[start : start + number], labels[start : start + number] = drawn, named
        pictures.flush()
        labels.flush()


def _draw_dense(job: tuple[int, int, int, int, tuple[Path, ...]]) -> tuple[np.ndarray, np.ndarray]:
    seed, start, count, grid, photos = job
    pictures = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = []
    for i in range(count):
        rng = random.Random(f"{seed}/dense/{start + i}")
        language = LANGUAGES[rng.randrange(2)]
        kind = rng.choices(list(_DENSE_KINDS), list(_DENSE_KINDS.values()))[0]
        scene = make_scene(rng, language, kind, photos, random_words=rng.random() < 0.5, crowded=rng.random() < 0.8)
        pictures[i] = np.asarray(draw_scene(scene))
        labels.append(dense_labels(scene, grid))
    return pictures, np.stack(labels)


def world_texts(seed: int, count: int) -> Iterator[str]:
    """The world's own English and Chinese, to train the tiny vocabulary on.

    Chinese goes in by the character apart from names, and the English words drawn on pictures stay out, so
    that both are read and spelled glyph by glyph: a token for each whole word would have to be learnt alone.
    """
    names = [name for table in (KINDS, COLOURS, SIZES, PLACES, RELATIONS) for name in table.values()]
    prefixes = [to_string(prompts.caption_prefix("zh")), to_string(prompts.ocr_prefix())]
    chat = ["system\n", "user\n", "assistant\n", prompts.DEFAULT_SYSTEM, prompts.picture_prefix(1).text]
    often = [*(name.zh for name in names), *ZH_GLYPHS, *prefixes, *chat]
    yield from chain.from_iterable(often for _ in range(count // 100))
    tasks = [task for task in TASK_SHARES if task != "ocr"]
    for i in range(count):
        sample: Sample = make_sample(seed, "vocabulary", i, tasks[i % len(tasks)], LANGUAGES[i // len(tasks) % 2])
        for segment in chain.from_iterable(turn.content for turn in sample.turns):
            if isinstance(segment, Text | Ref):
                yield from _DRAWN_WORD.split(segment.text) if sample.language == "en" else segment.text
            elif isinstance(segment, Box):
                yield segment.inner
