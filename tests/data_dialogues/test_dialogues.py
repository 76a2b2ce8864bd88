"""Dialogues by a model behind a real HTTP server that speaks OpenAI's chat API, from boxes, and put together."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from qvl.cli import main
from qvl.data.chat_server import Server
from qvl.data.dialogues.build import build_dialogues
from qvl.data.dialogues.scene import Scene, Thing, scenes
from qvl.data.dialogues.writer import read_reply, request
from qvl.data.lint import lint
from qvl.data.sample import Sample, Turn, read_split, write_shard
from qvl.errors import DataError, UsageError
from qvl.text.markup import Box, Image, Ref, Text, to_string
from qvl.text.prompts import caption_prefix, grounded_caption_prefix, referring_prefix, region_prefix

KITE, DOG = Box(10, 20, 300, 400), Box(500, 500, 700, 900)
GOOD = [
    {"question": "What is in the sky?", "answer": "A bright red kite [1] flies there."},
    {"question": "And below?", "answer": "A dog [2] runs."},
]


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (64, 48), (number % 256, 80, 120)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(number: int, task: str, prefix: Any, answer: Any, language: str = "en") -> Sample:
    turns = (Turn("user", prefix), Turn("assistant", answer))
    origin = {"source": "s", "row": str(number), "settings": "v"}
    return Sample(f"{task}-{number}", task, language, (picture(number),), turns, origin)


def about(number: int, language: str = "en") -> list[Sample]:
    """A caption, a phrase with its box and a described region of one picture."""
    words = ("a red kite", "a brown dog") if language == "en" else ("红色的风筝", "一只狗")
    return [
        sample(number, "caption", caption_prefix(language), (Text(f"{words[0]}, {number}"),), language),
        sample(number, "referring", referring_prefix(words[0]), (KITE,), language),
        sample(number, "region_caption", region_prefix(DOG), (Text(words[1]),), language),
    ]


SCENE = Scene("k", b"", "en", ("a field",), (Thing("a red kite", (KITE,)), Thing("two dogs", (DOG, KITE))))
ZH = Scene("k", b"", "zh", ("田野",), (Thing("红色的风筝", (KITE,)),))


def test_samples_of_one_picture_become_one_scene() -> None:
    caption = (Ref("a kite"), KITE, Text(" and "), Ref("dogs"), DOG, KITE)
    rows = [
        *about(1),
        sample(2, "grounded_caption", grounded_caption_prefix("en"), caption),
        sample(3, "vqa", (Image(0),), (Text("x"),)),
    ]
    one, two = scenes(rows)
    assert (one.captions, one.things) == (
        ("a red kite, 1",),
        (Thing("a red kite", (KITE,)), Thing("a brown dog", (DOG,))),
    )
    assert (two.captions, two.things) == (("a kite and dogs",), (Thing("a kite", (KITE,)), Thing("dogs", (DOG, KITE))))


def test_the_request_holds_what_is_known() -> None:
    system, notes = request(SCENE)
    assert "Write in English" in system["content"]
    assert notes["content"].splitlines() == [
        "The picture: a field",
        "[1] a red kite, at (10,20)-(300,400) of a 1000 x 1000 grid",
        "[2] two dogs, at (500,500)-(700,900) and (10,20)-(300,400) of a 1000 x 1000 grid",
    ]


@pytest.mark.parametrize(
    ("scene", "answer", "content"),
    [
        (SCENE, "The red kite [1] is up.", (Text("The "), Ref("red kite"), KITE, Text(" is up."))),
        (
            SCENE,
            "A kite[1] and dogs [2].",
            (Text("A "), Ref("kite"), KITE, Text(" and "), Ref("dogs"), DOG, KITE, Text(".")),
        ),
        (SCENE, "Something [1] flies.", (Text("Something"), Text(" flies."))),
        (SCENE, "Hotdogs [2] here.", (Text("Hotdogs"), Text(" here."))),
        (ZH, "天上有红色的风筝[1]。", (Text("天上有"), Ref("红色的风筝"), KITE, Text("。"))),
        (ZH, "天上有风筝[1]。", (Text("天上有"), Ref("风筝"), KITE, Text("。"))),
    ],
)
def test_numbers_become_phrases_with_boxes(scene: Scene, answer: str, content: tuple[object, ...]) -> None:
    question = "天上有什么？" if scene.language == "zh" else "What is there?"
    reply = "Sure! ```json\n" + json.dumps([{"question": question, "answer": answer}], ensure_ascii=False) + "\n```"
    turns = read_reply(reply, scene)
    assert turns[0].content == (Image(0), Text(question))
    assert turns[1].content == content


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I can't see pictures.", "holds no dialogue"),
        ("[{'question': 1}]", "not JSON"),
        ("[]", "holds no dialogue"),
        ('[{"question": "What?", "answer": " "}]', "empty answer"),
        ('[{"question": "What?"}]', "empty answer"),
        ('[{"question": "Where?", "answer": "The kite [3]."}]', "object that is not there"),
        ('[{"question": "Where?", "answer": "<box>(1,2),(3,4)</box>"}]', "tags in it"),
        ('[{"question": "What?", "answer": "These notes say a kite."}]', "speaks of its notes"),
        ('[{"question": "What?", "answer": "The caption says a kite."}]', "speaks of its notes"),
        ('[{"question": "有什么？", "answer": "有一个红色的风筝。"}]', "another language"),
        (json.dumps([{"question": "What?", "answer": "word " * 400}]), "more than 1200"),
    ],
)
def test_replies_that_do_not_do_are_refused_with_a_reason(reply: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_reply(reply, SCENE)


class FakeModel:
    """A server on this machine; `answer(notes, number)` gives a reply, or an HTTP status to fail with."""

    def __init__(self, answer: Callable[[str, int], str | int]) -> None:
        self.requests: list[dict[str, Any]] = []
        lock, requests = threading.Lock(), self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                said = answer(body["messages"][1]["content"], len(requests))
                message = {"role": "assistant", "content": said}
                done = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
                choices = [{"index": 0, "finish_reason": "stop", "message": message}]
                data = json.dumps(
                    {**done, "choices": choices} if isinstance(said, str) else {"error": {"message": "no"}}
                ).encode()
                self.send_response(200 if isinstance(said, str) else said)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, int], str | int]], FakeModel]]:
    running: list[FakeModel] = []

    def start(answer: Callable[[str, int], str | int]) -> FakeModel:
        running.append(FakeModel(answer))
        return running[-1]

    yield start
    for model in running:
        model.stop()


@pytest.fixture
def split(tmp_path: Path) -> Path:
    write_shard([s for i in range(12) for s in about(i, "zh" if i % 3 == 0 else "en")], tmp_path / "in" / "0.parquet")
    return tmp_path / "in"


def reply_to(notes: str, number: int) -> str:
    if "风筝" in notes:
        return json.dumps([{"question": "天上有什么？", "answer": "有红色的风筝[1]。"}], ensure_ascii=False)
    return json.dumps(GOOD)


Serve = Callable[[Callable[[str, int], str | int]], FakeModel]


def test_dialogues_are_sound_and_about_their_pictures(split: Path, tmp_path: Path, serve: Serve) -> None:
    model = serve(reply_to)
    report = build_dialogues([split], tmp_path / "out", server=Server(model.url, "writer-1", "secret"))
    samples = list(read_split(tmp_path / "out"))
    assert all(lint(s) == [] for s in samples)
    assert (report.scenes, report.asked, report.refused) == (12, 12, {})
    assert report.samples == len(samples) == sum(report.kinds.values())
    assert set(report.kinds) == {"written", "localisation", "several pictures"}
    parts = [row for s in samples for row in s.provenance["rows"]]
    assert len(parts) == len(set(parts)) == 24  # a written and a localisation dialogue of each picture, each once
    pictures = {f"caption-{i}": picture(i) for i in range(12)}
    for s in samples:
        assert [pictures[row.partition(":")[2]] for row in s.provenance["rows"]] == list(s.images)
    written = next(s for s in samples if s.provenance["settings"] == "written; writer-1" and s.language == "en")
    assert to_string(written.turns[1].content) == (f"A bright <ref>red kite</ref><box>{KITE.inner}</box> flies there.")
    several = next(s for s in samples if len(s.images) > 1 and s.language == "en")
    assert several.turns[0].content[: len(several.images)] == tuple(Image(i) for i in range(len(several.images)))
    assert all("In Picture" in to_string(turn.content) for turn in several.turns[::2])
    assert {(r["path"], r["key"], r["model"]) for r in model.requests} == {
        ("/v1/chat/completions", "Bearer secret", "writer-1")
    }


def test_bad_replies_and_failures_are_counted_and_the_rest_goes_on(split: Path, tmp_path: Path, serve: Serve) -> None:
    def answer(notes: str, number: int) -> str | int:
        if ", 1\n" in notes:
            return "no JSON"
        if ", 3\n" in notes:
            return 400
        return 500 if ", 2\n" in notes else reply_to(notes, number)

    server = Server(serve(answer).url, "m")
    report = build_dialogues([split], tmp_path / "out", server=server)
    assert dict(report.refused) == {
        "reply holds no dialogue": 1,
        "server error": 1,
        "server refused the request (400)": 1,
    }
    rows = [row for s in read_split(tmp_path / "out") for row in s.provenance["rows"]]
    assert sum(row.startswith("written:") for row in rows) == 9


def test_a_server_that_goes_away_costs_nothing_twice(split: Path, tmp_path: Path, serve: Serve) -> None:
    whole = build_dialogues([split], tmp_path / "whole", server=Server(serve(reply_to).url, "m", concurrency=1))
    model = serve(reply_to)
    model.stop()
    with pytest.raises(DataError, match="no answer"):
        build_dialogues([split], tmp_path / "out", server=Server(model.url, "m", concurrency=1))
    lines = (tmp_path / "whole" / "replies.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "out" / "replies.jsonl").write_text("".join(lines[:5]) + lines[5][:30], encoding="utf-8")  # killed here
    again = serve(reply_to)
    report = build_dialogues([split], tmp_path / "out", server=Server(again.url, "m", concurrency=1))
    assert (report.known, report.asked, len(again.requests)) == (5, 7, 7)
    assert report.kinds == whole.kinds
    for name in ("dialogues-00000.parquet", "replies.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_replies_are_written_down_while_others_are_awaited(split: Path, tmp_path: Path, serve: Serve) -> None:
    path, found = tmp_path / "out" / "replies.jsonl", []

    def answer(notes: str, number: int) -> str:
        if ", 1\n" in notes:  # slow, until another's reply is on the disk
            found.extend(until(lambda: path.exists() and path.read_text(encoding="utf-8")))
        return reply_to(notes, number)

    build_dialogues([split], tmp_path / "out", server=Server(serve(answer).url, "m", concurrency=4))
    assert found


def until(condition: Callable[[], object]) -> list[object]:
    """What the condition gave as soon as it was something, within five seconds."""
    for _ in range(100):
        if value := condition():
            return [value]
        time.sleep(0.05)
    return []


def test_what_came_back_before_the_end_is_kept(split: Path, tmp_path: Path, serve: Serve) -> None:
    def answer(notes: str, number: int) -> str | int:
        return 401 if number >= 6 else reply_to(notes, number)

    with pytest.raises(UsageError, match="401"):
        build_dialogues([split], tmp_path / "out", server=Server(serve(answer).url, "m", concurrency=4))
    kept = len((tmp_path / "out" / "replies.jsonl").read_text(encoding="utf-8").splitlines())
    assert kept
    report = build_dialogues([split], tmp_path / "out", server=Server(serve(reply_to).url, "m", concurrency=4))
    assert (report.known, report.asked) == (kept, 12 - kept)


def test_a_refused_key_ends_the_run(split: Path, tmp_path: Path, serve: Serve) -> None:
    model = serve(lambda notes, number: 401)
    with pytest.raises(UsageError, match="refused the request"):
        build_dialogues([split], tmp_path / "out", server=Server(model.url, "m"))
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_without_a_server_boxes_alone_give_dialogues(
    split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "dialogues", str(split), "--out", str(tmp_path / "out")]) == 0
    assert "12 pictures" in capsys.readouterr().out
    rows = [row for s in read_split(tmp_path / "out") for row in s.provenance["rows"]]
    assert sorted(rows) == sorted(f"localisation:caption-{i}" for i in range(12))
    assert main(["data", "dialogues", str(split), "--out", str(tmp_path / "x"), "--model", "m"]) == UsageError.exit_code


def test_a_split_that_says_nothing_is_named(tmp_path: Path) -> None:
    write_shard([sample(3, "vqa", (Image(0), Text("x?")), (Text("x"),))], tmp_path / "in" / "0.parquet")
    with pytest.raises(DataError, match="no picture with a caption or a box"):
        build_dialogues([tmp_path / "in"], tmp_path / "out")
