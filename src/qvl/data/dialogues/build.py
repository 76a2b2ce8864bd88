"""Samples of stage 2 -> dialogues of stage 3: written by a model behind a server, from boxes, and about several
pictures together. What the server said is kept, so that a killed run does not ask again."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from qvl.data.dialogues.scene import Scene, scenes
from qvl.data.dialogues.templates import localisation_dialogue, together
from qvl.data.dialogues.writer import read_reply, request
from qvl.data.sample import Sample, Turn, read_split, replacing_split, write_split
from qvl.errors import DataError, MissingDependencyError, QvlError, UsageError
from qvl.files import write_text

REPLIES_NAME = "replies.jsonl"
REPORT_NAME = "dialogues.json"
TOGETHER = 0.3  # share of the dialogues that become part of one about several pictures
PICTURES = (2, 3)
SERVER_ERROR = "server error"
REFUSED = (400, 413, 422)  # the request itself does not suit the server: too long, or filtered
BUSY = 429


@dataclass(frozen=True)
class Server:
    """A server that speaks OpenAI's chat API, and the model there."""

    url: str
    model: str
    key: str = "none"
    concurrency: int = 8
    temperature: float = 0.7


@dataclass
class DialogueReport:
    """What was made of how many pictures. Requests answered from replies.jsonl are not asked again."""

    scenes: int = 0
    asked: int = 0
    known: int = 0
    samples: int = 0
    shards: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """For the terminal: one line per fact."""
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.most_common())
        lines = [f"{self.scenes:,} pictures: {self.samples:,} dialogues in {self.shards} shards ({kinds})"]
        if self.asked or self.known:
            lines.append(f"  {self.asked:,} requests, {self.known:,} replies kept from before")
        lines += [f"  refused {count:,}: {reason}" for reason, count in self.refused.most_common()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Dialogue:
    """Turns about one picture, and how they came about."""

    scene: Scene
    turns: tuple[Turn, ...]
    kind: str  # written, localisation
    settings: str


def build_dialogues(
    split_dirs: Sequence[Path],
    out_dir: Path,
    *,
    server: Server | None = None,
    seed: int = 0,
    limit: int | None = None,
    overwrite: bool = False,
) -> DialogueReport:
    """Write shards of dialogues about the pictures of the splits, and dialogues.json, to out_dir.

    Every picture with boxes gives a dialogue about places; with a server, every picture also one that its model
    writes. A share is put together to dialogues about two or three pictures. The same splits, seed and replies give
    the same bytes. Raises UsageError where a server can't be used, DataError when it goes away.
    """
    report = DialogueReport()
    with replacing_split(out_dir, overwrite) as folder:
        found = islice((s for split_dir in split_dirs for s in scenes(read_split(split_dir))), limit)
        dialogues = _dialogues(found, server, out_dir / REPLIES_NAME, seed, report)
        report.shards = write_split(_samples(dialogues, seed, report), folder, "dialogues")
        if not report.samples:
            raise DataError(f"{', '.join(map(str, split_dirs))}: no picture with a caption or a box to talk about")
        write_text(folder / REPORT_NAME, json.dumps(vars(report), indent=1, ensure_ascii=False) + "\n")
    return report


def _dialogues(
    found: Iterable[Scene], server: Server | None, replies_path: Path, seed: int, report: DialogueReport
) -> Iterator[Dialogue]:
    ask = _Asker(server, replies_path, report) if server else None
    remaining = iter(found)
    while batch := list(islice(remaining, 4 * server.concurrency if server else 1)):
        replies = ask.replies(batch) if ask else [None] * len(batch)
        for scene, reply in zip(batch, replies, strict=True):
            report.scenes += 1
            if reply is not None and server:
                try:
                    yield Dialogue(scene, read_reply(reply, scene), "written", server.model)
                except DataError as error:
                    report.refused[str(error)] += 1
            if turns := localisation_dialogue(scene, seed):
                yield Dialogue(scene, turns, "localisation", f"seed {seed}")


class _RefusedError(Exception):
    """No reply to one request, and why; the run goes on."""


class _Asker:
    """Asks the server for what replies.jsonl does not hold, some requests at once, and writes each reply down."""

    def __init__(self, server: Server, path: Path, report: DialogueReport) -> None:
        try:
            self.openai: Any = import_module("openai")
        except ImportError as error:
            raise MissingDependencyError("--server needs the openai client: pip install 'qvl[llm]'") from error
        self.server, self.path, self.report = server, path, report
        self.client = self.openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=3, timeout=120)
        self.known = _known_replies(path)

    def replies(self, batch: list[Scene]) -> list[str | None]:
        """A reply per scene; None where the server failed at it, which is counted."""
        keys = [_request_key(scene, self.server) for scene in batch]
        wanted = [(key, scene) for key, scene in zip(keys, batch, strict=True) if key not in self.known]
        self.report.known += len(batch) - len(wanted)
        self.report.asked += len(wanted)
        with ThreadPoolExecutor(self.server.concurrency) as pool, self.path.open("a", encoding="utf-8") as file:
            asked = {pool.submit(self._ask, scene): (key, scene) for key, scene in wanted}
            failed: QvlError | None = None
            for future in as_completed(asked):
                key, scene = asked[future]
                try:
                    self.known[key] = future.result()
                except CancelledError:
                    continue
                except _RefusedError as refused:
                    self.report.refused[str(refused)] += 1
                    continue
                except QvlError as error:  # what was asked already is still written down
                    failed = failed or error
                    for other in asked:
                        other.cancel()
                    continue
                row = {"request": key, "scene": scene.key, "reply": self.known[key]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
        if failed:
            raise failed
        return [self.known.get(key) for key in keys]

    def _ask(self, scene: Scene) -> str:
        server = self.server
        try:
            answer = self.client.chat.completions.create(
                model=server.model, messages=request(scene), temperature=server.temperature
            )
        except self.openai.APIConnectionError as error:
            raise DataError(f"{server.url}: no answer ({error}); give the same command again to go on") from error
        except self.openai.APIStatusError as error:
            if error.status_code in REFUSED:
                raise _RefusedError(f"server refused the request ({error.status_code})") from error
            if error.status_code == BUSY or error.status_code >= 500:
                raise _RefusedError(SERVER_ERROR) from error
            raise UsageError(f"{server.url}: refused the request ({error.status_code}: {error.message})") from error
        text: str | None = answer.choices[0].message.content if answer.choices else None
        return text or ""


def _known_replies(path: Path) -> dict[str, str]:
    """Replies of earlier runs; a killed run may have left half a line at the end, which is cut off."""
    if not path.exists():
        return {}
    known: dict[str, str] = {}
    content = path.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        write_text(path, whole)
    for line in whole.splitlines():
        row = json.loads(line)
        known[row["request"]] = row["reply"]
    return known


def _request_key(scene: Scene, server: Server) -> str:
    content = json.dumps([server.model, server.temperature, scene.key, request(scene)], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _samples(dialogues: Iterator[Dialogue], seed: int, report: DialogueReport) -> Iterator[Sample]:
    """One sample per dialogue; some wait until two or three of a language can be put together."""
    rng = random.Random(f"{seed}/together")
    waiting: dict[str, list[Dialogue]] = {}
    wanted: dict[str, int] = {}

    def made(parts: list[Dialogue], turns: tuple[Turn, ...], kind: str) -> Sample:
        report.samples += 1
        report.kinds[kind] += 1
        return _sample(parts, turns, kind)

    for dialogue in dialogues:
        language = dialogue.scene.language
        group = waiting.setdefault(language, [])
        if rng.random() >= TOGETHER or any(d.scene.key == dialogue.scene.key for d in group):
            yield made([dialogue], dialogue.turns, dialogue.kind)
            continue
        group.append(dialogue)
        if len(group) == wanted.setdefault(language, rng.choice(PICTURES)):
            yield made(group, together([(language, d.turns) for d in group], rng), "several pictures")
            del waiting[language], wanted[language]
    for group in waiting.values():
        for dialogue in group:
            yield made([dialogue], dialogue.turns, dialogue.kind)


def _sample(parts: list[Dialogue], turns: tuple[Turn, ...], kind: str) -> Sample:
    keys = [f"{d.kind}:{d.scene.key}" for d in parts]
    identity = hashlib.sha256("|".join(keys).encode()).hexdigest()[:20]
    provenance = {
        "source": "dialogues",
        "row": keys[0],
        "rows": keys,
        "settings": f"{kind}; {parts[0].settings}",
        "image_sha256": hashlib.sha256(parts[0].scene.image).hexdigest(),
    }
    pictures = tuple(d.scene.image for d in parts)
    return Sample(f"dialogues/{identity}", "dialogue", parts[0].scene.language, pictures, turns, provenance)
