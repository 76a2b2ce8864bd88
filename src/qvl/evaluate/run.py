"""A benchmark from the user's files to its score: questions, answers that survive a kill, and what scores rest on.

OUT/NAME/settings.json        what was asked, and how
OUT/NAME/predictions.jsonl    every question with its answer and its truth: all that `rescore` reads
OUT/NAME/scores.json
OUT/NAME/submission.json      where a server keeps the truth
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from qvl.data.sample import shard_paths
from qvl.errors import DataError, UsageError
from qvl.evaluate.benchmarks import BY_NAME, Benchmark, Decoding, Source
from qvl.evaluate.items import Item, make_items
from qvl.evaluate.judge import with_verdicts
from qvl.evaluate.predictions import (
    PART_NAME,
    PREDICTIONS_NAME,
    Reply,
    answered_ids,
    append,
    merge,
    read_records,
)
from qvl.evaluate.rows import Row, check_rows
from qvl.evaluate.scorers import METRIC_NAMES, SCORERS, SUBMISSIONS, Record, Scored
from qvl.evaluate.uncertainty import interval
from qvl.files import write_text

SETTINGS_NAME, SCORES_NAME, SUBMISSION_NAME = "settings.json", "scores.json", "submission.json"


class Answerer(Protocol):
    """What answers: a model in this process, or a server."""

    def answers(
        self, items: Sequence[Item], decoding: Decoding, keep_last: int | None = None
    ) -> Iterator[list[tuple[Item, Reply]]]: ...


@dataclass(frozen=True)
class Asked:
    """How the questions are asked. limit: questions of each group, for a try; the score says so."""

    as_chat: bool = False
    shots: int = 0
    seed: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Share:
    """Which of the processes that share the questions this one is, and how all of them wait for each other."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], Any] = lambda: None


AS_PUBLISHED, ALONE = Asked(), Share()


def source_files(source: Source, data: Path) -> list[Path]:
    """Where a benchmark's files are in the user's folder."""
    if source.own and any(data.glob("*.parquet")):
        return [data]
    return [data / name for name in source.files]


def existing_files(benchmark: Benchmark, source: Source, data: Path) -> list[Path]:
    """The same. DataError names the first that is not there, and who gives it."""
    files = source_files(source, data)
    for path in files:
        if not path.exists():
            raise DataError(f"{path}: {benchmark.name} needs it; get it from {source.origin}")
    if source.own:
        shard_paths(files[0])
    return files


def read_rows(benchmark: Benchmark, source: Source, data: Path) -> list[Row]:
    """The questions of a source, all of them and all with their pictures. DataError names what is missing or wrong."""
    files = existing_files(benchmark, source, data)
    rows = source.read(files, data / source.images)
    if rows or not source.own:
        check_rows(rows, files[0])
    return rows


def read_items(benchmark: Benchmark, data: Path, asked: Asked) -> tuple[list[Item], int]:
    """What is asked, and how many questions the benchmark has. UsageError for shots where there are no exemplars."""
    if asked.shots and benchmark.exemplars is None:
        raise UsageError(f"{benchmark.name}: --shots {asked.shots}: the paper has no few-shot prompts for it")
    rows = read_rows(benchmark, benchmark.source, data)
    exemplars = read_rows(benchmark, benchmark.exemplars, data) if asked.shots and benchmark.exemplars else ()
    chosen = _first_of_groups(benchmark, rows, asked.limit)
    return (
        make_items(benchmark, chosen, as_chat=asked.as_chat, exemplars=exemplars, shots=asked.shots, seed=asked.seed),
        len(rows),
    )


def _first_of_groups(benchmark: Benchmark, rows: Sequence[Row], limit: int | None) -> list[Row]:
    if limit is None:
        return list(rows)
    if benchmark.metric == "mme":
        limit += limit % 2  # two questions belong to a picture
    taken: Counter[str] = Counter()
    chosen = []
    for row in rows:
        taken[row.group] += 1
        if taken[row.group] <= limit:
            chosen.append(row)
    return chosen


def evaluate(
    benchmarks: Sequence[Benchmark],
    data: Path,
    answerer: Answerer,
    model_name: str,
    out: Path,
    asked: Asked = AS_PUBLISHED,
    share: Share = ALONE,
    judge: Callable[[Sequence[Record], Path], None] | None = None,
    progress: bool = True,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ask every benchmark's questions and score the answers; on the first process a folder's name and its scores, as
    they come.

    model_name says whose answers they are: a folder goes on only with the same. All data is read before the first
    question is asked. judge: asks TouchStone's judge about answers and keeps its verdicts in their folder; it comes
    last, when no process waits for another.
    """
    work = []
    for benchmark in benchmarks:
        items, total = read_items(benchmark, data, asked)
        if items:
            work.append((benchmark, items, total))
        elif share.rank == 0:
            print(f"{benchmark.name}: no such samples")
    if not work:
        raise DataError(f"{data}: no sample of a task that is scored")
    for benchmark, items, total in work:
        settings = _settings(benchmark, items, total, model_name, asked)
        claim(folder_of(out, benchmark, asked), settings, data)
    share.wait()
    to_judge = []
    for benchmark, items, _ in work:
        folder = folder_of(out, benchmark, asked)
        if not (folder / PREDICTIONS_NAME).exists():
            _answer_share(benchmark, items, answerer, folder, share, progress and share.rank == 0)
        share.wait()
        if share.rank > 0:
            continue
        if not (folder / PREDICTIONS_NAME).exists():
            merge(folder, items)
        if judge is not None and benchmark.metric == "touchstone":
            to_judge.append(folder)
        else:
            yield folder.name, rescore(folder)
    for folder in to_judge:
        assert judge is not None
        judge(read_records(folder / PREDICTIONS_NAME), folder)
        yield folder.name, rescore(folder)


def folder_of(out: Path, benchmark: Benchmark, asked: Asked) -> Path:
    """Where a benchmark's answers go; each number of shots has a folder of its own."""
    return out / (f"{benchmark.name}-{asked.shots}shot" if asked.shots else benchmark.name)


def _answer_share(
    benchmark: Benchmark, items: Sequence[Item], answerer: Answerer, folder: Path, share: Share, progress: bool
) -> None:
    """Answer every question of this process that no process has answered yet."""
    mine = list(items[share.rank :: share.count])
    done = answered_ids(folder)
    wanted = [item for item in mine if item.id not in done]
    bar = tqdm(
        total=len(mine),
        initial=len(mine) - len(wanted),
        desc=benchmark.name,
        unit="question",
        dynamic_ncols=True,
        disable=not progress,
    )

    def counted() -> Iterator[list[tuple[Item, Reply]]]:
        for batch in answerer.answers(wanted, benchmark.decoding, benchmark.keep_last):
            yield batch
            bar.update(len(batch))

    with bar:
        append(folder / PART_NAME.format(rank=share.rank), counted())


def _settings(benchmark: Benchmark, items: Sequence[Item], total: int, model_name: str, asked: Asked) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "model": model_name,
        "prompt": benchmark.prompt,
        "decoding": asdict(benchmark.decoding),
        **asdict(asked),
        "questions": len(items),
        "of": total,
    }


def claim(folder: Path, settings: dict[str, Any], data: Path) -> None:
    """Note what a folder's answers are, and where their pictures lie. UsageError where it holds answers to something
    else, naming what differs."""
    path = folder / SETTINGS_NAME
    if path.exists():
        before = read_settings(folder)
        if different := [name for name, value in settings.items() if before.get(name) != value]:
            name = different[0]
            raise UsageError(
                f"{folder}: holds answers with another {', '.join(different)} ({name}: {before.get(name)!r}, now "
                f"{settings[name]!r}); give another --out or delete that folder"
            )
        return
    noted = {**settings, "data": str(data.absolute())}
    write_text(path, json.dumps(noted, indent=2, ensure_ascii=False) + "\n")


def read_settings(folder: Path) -> dict[str, Any]:
    """What a folder's answers are. DataError where it is none of `qvl eval`'s."""
    path = folder / SETTINGS_NAME
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        BY_NAME[settings["benchmark"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no settings of `qvl eval` ({error!r}); give a folder that it wrote") from error
    return settings


def rescore(folder: Path) -> dict[str, Any]:
    """The scores of a folder's predictions, from nothing but them, or what they wait for; written to scores.json."""
    settings = read_settings(folder)
    benchmark = BY_NAME[settings["benchmark"]]
    records = read_records(folder / PREDICTIONS_NAME)
    if len(records) != settings["questions"]:
        raise DataError(
            f"{folder / PREDICTIONS_NAME}: {len(records):,} answers, but {settings['questions']:,} questions were asked"
        )
    scores: dict[str, Any] = {}
    if benchmark.metric in SUBMISSIONS:
        submission = SUBMISSIONS[benchmark.metric](records)
        write_text(folder / SUBMISSION_NAME, json.dumps(submission, ensure_ascii=False) + "\n")
        scores["waits"] = f"for the server; hand in {folder / SUBMISSION_NAME}"
    elif (scored := score_records(benchmark, records, folder)) is None:
        scores["waits"] = "for a judge: give --judge URL --judge-model MODEL"
    else:
        scores = score_values(scored)
    shown = {"benchmark": benchmark.name, "metric": METRIC_NAMES.get(benchmark.metric, "the server's"), **scores}
    shown |= {"questions": settings["questions"], "of": settings["of"]}
    write_text(folder / SCORES_NAME, json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
    return shown


def score_records(benchmark: Benchmark, records: Sequence[Record], folder: Path) -> Scored | None:
    """Each answer's value; None where a server or a judge has still to score."""
    if benchmark.metric in SUBMISSIONS:
        return None
    judged = with_verdicts(records, folder) if benchmark.metric == "touchstone" else records
    return None if judged is None else SCORERS[benchmark.metric](judged)


def score_values(scored: Scored) -> dict[str, Any]:
    """What scores.json says of a score."""
    around = interval(scored.values, scored.strata, scored.weights)
    return {
        "score": scored.score,
        "interval": [around.low, around.high],
        "unparsed": scored.unparsed,
        "groups": scored.by_group(),
        "details": scored.details,
    }


def scored_folders(out: Path) -> list[Path]:
    """The benchmarks' folders of a run, or the folder itself where it is one. UsageError where there is none."""
    if (out / SETTINGS_NAME).exists():
        return [out]
    found = [path.parent for path in out.glob(f"*/{SETTINGS_NAME}")]
    if not found:
        raise UsageError(f"{out}: holds no answers of `qvl eval`; give its --out")
    return sorted(found, key=_place)


def _place(folder: Path) -> tuple[int, int]:
    """In the table's order, few shots before many."""
    settings = read_settings(folder)
    return list(BY_NAME).index(settings["benchmark"]), settings["shots"]
