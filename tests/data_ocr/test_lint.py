"""Every rule of the linter, broken once."""

from dataclasses import replace
from pathlib import Path

import pytest

from qvl.data.lint import lint, lint_split
from qvl.data.sample import TASKS, Sample, Turn, write_shard
from qvl.data.world.tasks import make_sample
from qvl.text.markup import Box, Image, Quad, Ref, Text
from qvl.text.tokenizer import Tokenizer

GOOD = make_sample(1, "test", 0, "referring", "en")
PREFIX, ANSWER = GOOD.turns


def with_answer(*segments: object) -> Sample:
    return replace(GOOD, turns=(PREFIX, Turn("assistant", segments)))  # type: ignore[arg-type]


REGION = make_sample(1, "test", 0, "region_caption", "en")
WITHOUT_PHRASE = Turn("user", tuple(s for s in REGION.turns[0].content if not isinstance(s, Ref)))
BROKEN = {
    "unknown task": ("task", replace(GOOD, task="riddle")),
    "unknown language": ("language", replace(GOOD, language="xx")),
    "unknown role": ("role", replace(GOOD, turns=(PREFIX, Turn("robot", ANSWER.content)))),
    "no provenance": ("provenance", replace(GOOD, provenance={})),
    "picture missing": ("image place", replace(GOOD, images=())),
    "picture unused": ("image place", replace(GOOD, images=(*GOOD.images, *GOOD.images))),
    "picture shown twice": ("image place", replace(GOOD, turns=(Turn("user", (Image(0), *PREFIX.content)), ANSWER))),
    "not a picture": ("image", replace(GOOD, images=(b"no picture",))),
    "empty picture": ("image", replace(GOOD, images=(b"",))),
    "picture cut short": ("image", replace(GOOD, images=(GOOD.images[0][:-200],))),
    "turns the wrong way round": ("turns", replace(GOOD, turns=(ANSWER, PREFIX))),
    "no answer": ("turns", replace(GOOD, turns=(PREFIX,))),
    "empty answer": ("answer", with_answer(Text(""))),
    "no box where one is asked for": ("answer", with_answer(Text("on the left"))),
    "image in the answer": ("answer", with_answer(Image(0), *ANSWER.content)),
    "box without area": ("box", with_answer(Box(10, 10, 10, 200))),
    "crossed quad": ("quad", with_answer(Ref("word"), Quad(0, 0, 100, 100, 100, 0, 0, 100))),
    "anticlockwise quad": ("quad", with_answer(Ref("word"), Quad(0, 0, 0, 100, 100, 100, 100, 0))),
    "empty phrase": ("phrase", with_answer(Ref(""), Box(1, 1, 20, 20))),
    "half a character": ("text", with_answer(Text("\ud800"), Ref("a"), Box(1, 1, 20, 20))),
    "tag among words": ("tag", with_answer(Text("the <ref>cat is here"), Ref("a"), Box(1, 1, 20, 20))),
    "box after plain text": ("box without phrase", replace(REGION, turns=(REGION.turns[0], ANSWER))),
    "box without phrase in the question": (
        "box without phrase",
        replace(REGION, turns=(WITHOUT_PHRASE, *REGION.turns[1:])),
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_sound_samples_have_no_problem(task: str) -> None:
    assert lint(make_sample(1, "test", 0, task, "zh")) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_samples_are_named_by_what_is_wrong(name: str) -> None:
    kind, sample = BROKEN[name]
    assert kind in [problem.split(":")[0] for problem in lint(sample)]


def test_a_split_is_counted_by_kind(tmp_path: Path) -> None:
    write_shard([GOOD, replace(BROKEN["not a picture"][1], id="other"), GOOD], tmp_path / "0.parquet")
    (tmp_path / "1.parquet").write_bytes(b"PAR1 not really")
    report = lint_split(tmp_path, Tokenizer.tiny(), 16, 2048)
    assert not report.ok
    assert (report.samples, report.faulty) == (3, 3)
    assert report.kinds == {"image": 1, "duplicate id": 1, "unreadable": 1}


@pytest.mark.parametrize("pixels", [True, False])
def test_boxes_in_pixels_are_noticed_over_a_split(tmp_path: Path, pixels: bool) -> None:
    """A box in pixels of a small picture is a sound box somewhere else: only all of them together tell."""
    samples = []
    for number in range(25):
        sample = make_sample(1, "test", number, "referring", "en")
        [answer] = [s for s in sample.turns[1].content if isinstance(s, Box)]
        place = tuple(v * 112 // 1000 for v in answer.as_tuple) if pixels else answer.as_tuple
        samples.append(replace(sample, turns=(sample.turns[0], Turn("assistant", (Box(*place),)))))
    write_shard(samples, tmp_path / "0.parquet")
    report = lint_split(tmp_path, Tokenizer.tiny(), 16, 2048)
    assert dict(report.kinds) == ({"boxes in pixels": 1} if pixels else {})


def test_a_sample_that_no_sequence_holds_is_a_problem(tmp_path: Path) -> None:
    write_shard([GOOD], tmp_path / "0.parquet")
    assert lint_split(tmp_path, Tokenizer.tiny(), 16, 2048).ok
    assert lint_split(tmp_path, Tokenizer.tiny(), 16, 20).kinds == {"length": 1}
