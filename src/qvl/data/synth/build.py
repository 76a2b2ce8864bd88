"""Synthetic OCR on disk: shards of samples, the same for any number of workers, with tables of fonts and counts."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from qvl import images
from qvl.data.engine import run_jobs
from qvl.data.language import language_of
from qvl.data.sample import SHARD_SIZE, Sample, Turn, replacing_split, write_shard
from qvl.data.synth.corpus import LANGUAGES, Corpus, read_corpus, vocabulary_corpus
from qvl.data.synth.fonts import FOLDERS, families_table, find_fonts
from qvl.data.synth.page import LEVELS, PageSettings, SynthPage, fast, make_page
from qvl.errors import UsageError
from qvl.files import write_text
from qvl.text.markup import Ref, Segment, quad_from_pixels
from qvl.text.prompts import ocr_prefix
from qvl.text.tokenizer import Tokenizer

REPORT_NAME = "synth.json"
FONTS_NAME = "fonts.txt"
SETTINGS = "synth-3"  # raise it when the same seed would give other pictures


@dataclass(frozen=True)
class SynthConfig:
    """What `qvl data synth` writes: one shard's pictures depend on this and their numbers alone."""

    count: int
    seed: int = 0
    language: str = "all"  # en, zh, mixed, or all three in turn
    level: str = "line"
    fast: bool = False
    texts: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    fonts: tuple[str, ...] = FOLDERS

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"count {self.count}: at least 1 picture")
        if self.level not in LEVELS:
            raise UsageError(f"level {self.level!r} is not one of {', '.join(LEVELS)}")
        if self.language not in (*LANGUAGES, "all"):
            raise UsageError(f"language {self.language!r} is not one of {', '.join(LANGUAGES)}, all")


@dataclass
class SynthReport:
    """What was drawn."""

    samples: int = 0
    shards: int = 0
    empty: int = 0  # pictures on which no word found room
    languages: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)  # blocks set in each

    def summary(self) -> str:
        """For the terminal."""
        spoken = ", ".join(f"{name} {count:,}" for name, count in sorted(self.languages.items()))
        lines = [f"{self.samples:,} samples in {self.shards} shards ({spoken}), {len(self.families)} font families"]
        if self.empty:
            lines.append(f"  {self.empty} pictures held no word and were left out")
        return "\n".join(lines)


def synthesize(
    config: SynthConfig, out_dir: Path, *, workers: int | None = None, overwrite: bool = False
) -> SynthReport:
    """Draw config.count pictures and write shards, synth.json and fonts.txt to out_dir.

    MissingDependencyError without fonts; UsageError for texts or settings that don't fit.
    """
    fonts, _ = find_fonts(config.fonts), _corpus(config)
    report = SynthReport()
    with replacing_split(out_dir, overwrite) as folder:
        starts = range(0, config.count, SHARD_SIZE)
        jobs = [
            (config, start, min(start + SHARD_SIZE, config.count), folder / f"synth-{number:05d}.parquet")
            for number, start in enumerate(starts)
        ]
        for part in run_jobs(_draw_shard, jobs, "synth", workers=workers):
            report.samples += part.samples
            report.shards += part.shards
            report.empty += part.empty
            report.languages.update(part.languages)
            report.families.update(part.families)
        write_text(folder / FONTS_NAME, families_table(fonts) + "\n")
        write_text(folder / REPORT_NAME, json.dumps(vars(report), indent=1, ensure_ascii=False) + "\n")
    return report


def _draw_shard(job: tuple[SynthConfig, int, int, Path]) -> SynthReport:
    config, start, stop, path = job
    part = SynthReport()
    samples = []
    for index in range(start, stop):
        page = draw(config, index)
        part.families.update(face.family for face, _ in page.faces)
        if page.labels:
            samples.append(page_sample(page, config, index))
            part.languages[samples[-1].language] += 1
        else:
            part.empty += 1
    if samples:
        part.samples, part.shards = write_shard(samples, path), 1
    return part


def draw(config: SynthConfig, index: int) -> SynthPage:
    """The index-th picture: a pure function of the configuration, the fonts and the texts."""
    rng = random.Random(f"{config.seed}/synth/{index}")
    language = LANGUAGES[index % len(LANGUAGES)] if config.language == "all" else config.language
    settings = PageSettings(level=config.level, language=language)
    return make_page(
        rng,
        fast(settings) if config.fast else settings,
        _corpus(config),
        find_fonts(config.fonts),
        _photos(config.photos),
    )


def page_sample(page: SynthPage, config: SynthConfig, index: int) -> Sample:
    """A picture and its labels as a sample of task "ocr"."""
    answer: list[Segment] = []
    for text, quad in page.labels:
        answer += [Ref(text), quad_from_pixels([(float(x), float(y)) for x, y in quad], *page.size)]
    row = f"{config.seed}/{index}"
    provenance = {
        "source": "synth",
        "row": row,
        "settings": f"{SETTINGS} {config.level}{' fast' if config.fast else ''}",
        "image_sha256": hashlib.sha256(page.encoded).hexdigest(),
        "fonts": [  # of each block in turn: how many of the lines (words, blocks) are drawn in which font
            {"family": face.family, "file": Path(face.path).name, "face": face.index, "labels": labels}
            for face, labels in page.faces
        ],
    }
    turns = (Turn("user", ocr_prefix()), Turn("assistant", tuple(answer)))
    language = language_of("".join(text for text, _ in page.labels))
    return Sample(f"synth-{row.replace('/', '-')}", "ocr", language, (page.encoded,), turns, provenance)


@lru_cache(maxsize=2)
def _corpus(config: SynthConfig) -> Corpus:
    corpus = read_corpus([Path(p) for p in config.texts]) if config.texts else vocabulary_corpus(Tokenizer.published())
    wanted = {"en": ("en",), "zh": ("zh",)}.get(config.language, ("en", "zh"))
    if missing := [language for language in wanted if not corpus.words[language]]:
        raise UsageError(f"{', '.join(config.texts)}: no {missing[0]} text in it; give one that has, or --language")
    return corpus


@lru_cache(maxsize=2)
def _photos(folders: Sequence[str]) -> tuple[Path, ...]:
    found = sorted(p for f in folders for p in Path(f).rglob("*") if p.suffix.lower() in images.SUFFIXES)
    if folders and not found:
        raise UsageError(f"{', '.join(folders)}: no photographs here")
    return tuple(found)
