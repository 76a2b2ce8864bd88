"""Every rule of the linter, broken once."""

from dataclasses import replace
from pathlib import Path

import pytest

from qvl.data.lint import lint, lint_split
from qvl.data.sample import Sample, Turn, write_shard
from qvl.data.world.tasks import make_sample
from qvl.text.markup import Box, Image, Quad, Ref, Text

GOOD = make_sample(1, "test", 0, "referring", "en")
PREFIX, ANSWER = GOOD.turns


def with_answer(*segments: object) -> Sample:
    return replace(GOOD, turns=(PREFIX, Turn("assistant", segments)))  # type: ignore[arg-type]


BROKEN = {
    "unknown task": replace(GOOD, task="riddle"),
    "unknown language": replace(GOOD, language="xx"),
    "no provenance": replace(GOOD, provenance={}),
    "picture missing": replace(GOOD, images=()),
    "picture unused": replace(GOOD, images=(*GOOD.images, *GOOD.images)),
    "not a picture": replace(GOOD, images=(b"no picture",)),
    "picture shown twice": replace(GOOD, turns=(Turn("user", (Image(0), *PREFIX.content)), ANSWER)),
    "turns the wrong way round": replace(GOOD, turns=(ANSWER, PREFIX)),
    "no answer": replace(GOOD, turns=(PREFIX,)),
    "empty answer": with_answer(Text("")),
    "box without area": with_answer(Box(10, 10, 10, 200)),
    "crossed quad": with_answer(Ref("word"), Quad(0, 0, 100, 100, 100, 0, 0, 100)),
    "empty phrase": with_answer(Ref(""), Box(1, 1, 20, 20)),
}


def test_a_sound_sample_has_no_problem() -> None:
    assert lint(GOOD) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_samples_are_found(name: str) -> None:
    assert lint(BROKEN[name])


def test_a_split_is_counted_by_kind(tmp_path: Path) -> None:
    write_shard([GOOD, replace(BROKEN["not a picture"], id="other")], tmp_path / "0.parquet")
    (tmp_path / "1.parquet").write_bytes(b"PAR1 not really")
    report = lint_split(tmp_path)
    assert not report.ok
    assert report.samples == 2
    assert sum(report.kinds.values()) >= 2
