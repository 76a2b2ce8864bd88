"""Samples of stage 2 -> dialogues of stage 3: written by a model behind a server, from boxes, and about several
pictures together. What the server said is kept, so that a killed run does not ask again."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from qvl.data.chat_server import ChatServer, RefusedError, Server, ask_all
from qvl.data.dialogues.scene import Scene, scenes
from qvl.data.dialogues.templates import localisation_dialogue, together
from qvl.data.dialogues.writer import read_reply, request
from qvl.data.sample import Sample, Turn, read_split, replacing_split, write_split
from qvl.errors import DataError
from qvl.files import write_text

REPLIES_NAME = "replies.jsonl"
REPORT_NAME = "dialogues.json"
TOGETHER = 0.3  # share of the dialogues that become part of one about several pictures
PICTURES = (2, 3)
SERVER_ERROR = "server error"
REFUSED = (400, 413, 422)  # the request itself does not suit the server: too long, or filtered
BUSY = 429
TEMPERATURE = 0.7


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


class _Asker:
    """Asks the server for what replies.jsonl does not hold, some requests at once, and writes each reply down."""

    def __init__(self, server: Server, path: Path, report: DialogueReport) -> None:
        self.chat = ChatServer(server)
        self.server, self.path, self.report = server, path, report
        self.known = _known_replies(path)

    def replies(self, batch: list[Scene]) -> list[str | None]:
        """A reply per scene; None where the server failed at it, which is counted."""
        keys = [_request_key(scene, self.server) for scene in batch]
        wanted = [(key, scene) for key, scene in zip(keys, batch, strict=True) if key not in self.known]
        self.report.known += len(batch) - len(wanted)
        self.report.asked += len(wanted)
        with self.path.open("a", encoding="utf-8") as file:
            answered = ask_all(wanted, lambda one: self._ask(one[1]), self.server.concurrency)
            for (key, scene), reply in answered:
                if isinstance(reply, RefusedError):
                    self.report.refused[_reason(reply)] += 1
                    continue
                self.known[key] = reply
                file.write(json.dumps({"request": key, "scene": scene.key, "reply": reply}, ensure_ascii=False) + "\n")
                file.flush()
        return [self.known.get(key) for key in keys]

    def _ask(self, scene: Scene) -> str | RefusedError:
        """A reply, or why there is none to this request alone; a refusal that would meet all of them is raised."""
        try:
            return self.chat.say(request(scene), TEMPERATURE)
        except RefusedError as refused:
            if refused.status in REFUSED or refused.status == BUSY or refused.status >= 500:
                return refused
            raise


def _reason(refused: RefusedError) -> str:
    return f"server refused the request ({refused.status})" if refused.status in REFUSED else SERVER_ERROR


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
    content = json.dumps([server.model, TEMPERATURE, scene.key, request(scene)], ensure_ascii=False)
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
