"""The whole recipe at laptop size, in one go: world, documents, stages, evaluation, report."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import nlargest
from pathlib import Path

from qvl.checkpoint import load_model
from qvl.cli.verb import run_benchmarks
from qvl.data.ocr.build import build_ocr, bundled_documents
from qvl.data.sample import Sample, read_split
from qvl.data.world.build import WorldConfig, write_dense, write_world
from qvl.errors import MissingDependencyError
from qvl.evaluate.report import write_report
from qvl.evaluate.scoring import summary_lines
from qvl.evaluate.world import evaluate_world
from qvl.explain.loss import loss_table
from qvl.explain.loss_page import write_loss_page
from qvl.explain.loss_text import table_text
from qvl.model.config import PRESETS
from qvl.text.markup import to_string
from qvl.text.tokenizer import Tokenizer
from qvl.train.recipe import load_recipe, read_settings
from qvl.train.stage import CHECKPOINT
from qvl.train.trainer import run_recipe

WORLD_NAME = "world.toml"
DOCUMENTS = "documents"
MAX_FOUND_DOCUMENTS = 3
MAX_CROPS = 600
CANDIDATES = 16  # samples, of which one's loss table is shown
MAX_ANSWER = 60  # characters of it, so that its table can be read at once


@dataclass(frozen=True)
class DemoConfig:
    """How much data, which stages in which order, and after which of them the held-out split is answered."""

    seed: int
    train: int
    test: int
    dense: int
    stages: tuple[str, ...]
    evaluate_after: tuple[str, ...]
    evaluate_limit: int  # samples per task and language


def run_demo(recipes: Path, out: Path, device: str = "cpu") -> None:
    """Run every step that is not finished yet; prints how to open the report and the chat."""
    start = time.perf_counter()
    config = read_settings(DemoConfig, recipes / WORLD_NAME)
    # Here already: a wrong recipe ends the run before it begins.
    mixtures = {stage: load_recipe(recipes / f"{stage}.toml").data.mixture for stage in config.stages}
    steps: list[tuple[str, Callable[[], None]]] = [
        ("world", partial(_write_world, config, out)),
        ("documents", partial(_read_documents, out)),
    ]
    for stage in config.stages:
        steps.append((stage, partial(_train, recipes, stage, out, device)))
        if shares := mixtures[stage]:  # the vision warm-up has none: it answers nothing
            most = max(shares, key=shares.__getitem__)
            steps.append((f"loss-after-{stage}", partial(_show_loss, out, stage, most)))
        if stage in config.evaluate_after:
            steps.append((f"answers-after-{stage}", partial(_evaluate, config, out, stage, device)))
    for name, work in steps:
        done = out / "finished" / name
        if done.exists():
            continue
        print(f"[{(time.perf_counter() - start) / 60:4.1f} min] {name}", flush=True)
        work()
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    world, last = out / "world" / "test", out / config.stages[-1] / CHECKPOINT
    report = write_report(out, [world])
    minutes = (time.perf_counter() - start) / 60
    print(f"\nDone in {minutes:.1f} minutes.\n  report: open {report.resolve()} in a browser")
    print(f"  losses: each stage's loss.html, or .venv/bin/qvl explain loss {world} --task vqa --model {last}")
    print(f"  chat:   .venv/bin/qvl chat --model {last} --image PICTURE.png")


def _write_world(config: DemoConfig, out: Path) -> None:
    write_world(out / "world", WorldConfig(config.seed, config.train, config.test))
    vision = PRESETS["tiny"].vision
    write_dense(out / "world" / "dense", config.seed, config.dense, vision.grid)


def _read_documents(out: Path) -> None:
    """Crops of the bundled pages and of documents found on this machine, as OCR samples for stage 2."""
    documents = [*bundled_documents(), *found_documents()]
    try:
        report = build_ocr(documents, out / DOCUMENTS, mode="crop", max_samples=MAX_CROPS, overwrite=True)
    except MissingDependencyError as error:
        print(f"  left out: {error}")
        return
    print("  " + report.summary().replace("\n", "\n  "))


def found_documents() -> list[Path]:
    """A few PDF files of the system's own documentation, in a fixed order."""
    return sorted(Path("/usr/share/doc").rglob("*.pdf"))[:MAX_FOUND_DOCUMENTS]


def _train(recipes: Path, stage: str, out: Path, device: str) -> None:
    """One stage; on what is there, where the documents had to be left out."""
    path = recipes / f"{stage}.toml"
    wanted = load_recipe(path).data.split_dirs
    there = [split for split in wanted if split != DOCUMENTS or list((out / DOCUMENTS).glob("*.parquet"))]
    run_recipe(path, [f"data.split_dirs={json.dumps(there)}"], out, device, benchmarks=run_benchmarks)


def _show_loss(out: Path, stage: str, task: str) -> None:
    """A loss table of what the stage learnt most of, to be read while the next one trains: of a few samples the one
    that it finds hardest, because right answers show little."""
    folder, split, page = out / stage / CHECKPOINT, out / "world" / "test", out / stage / "loss.html"
    samples = nlargest(CANDIDATES, (sample for sample in read_split(split) if sample.task == task), key=_readable)
    if not samples:
        print(f"  no held-out sample of the task {task}")
        return
    model, tokenizer = load_model(folder), Tokenizer.from_dir(folder)
    table = max((loss_table(model, tokenizer, sample) for sample in samples), key=lambda table: table.mean)
    sample = table.sample
    for turn in sample.turns:
        print(f"  {turn.role}: {to_string(turn.content)}")
    print("\n" + table_text(table, sample.language, sys.stdout.isatty()))
    write_loss_page(table, page, sample.language)
    print(f"  the highest loss of {len(samples)} held-out samples of the task {task}; as a page: {page}")
    print(f"  again: .venv/bin/qvl explain loss {split} --id {sample.id} --model {folder}")


def _readable(sample: Sample) -> tuple[bool, int]:
    """Greater for a sample in English whose answers are long, but not too long to be read at once."""
    length = sum(len(to_string(turn.content)) for turn in sample.turns if turn.role == "assistant")
    return sample.language == "en", length if length <= MAX_ANSWER else -length


def _evaluate(config: DemoConfig, out: Path, stage: str, device: str) -> None:
    model = load_model(out / stage / CHECKPOINT, device=device)
    tokenizer = Tokenizer.from_dir(out / stage / CHECKPOINT)
    scores = evaluate_world(
        model, tokenizer, out / "world" / "test", out / stage / "eval", stage, limit=config.evaluate_limit
    )
    print("\n".join(summary_lines(scores)))
