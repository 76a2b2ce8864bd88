"""From files to shards: what is kept, where the rest went, and that nothing depends on how it was run."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest_pairs import content_of, jpeg, pair, tar_of

from qvl.cli import main
from qvl.data.lint import lint_split
from qvl.data.pairs.funnel import PAGE_NAME, Funnel, funnel_page, read_funnel
from qvl.data.pairs.run import clean_pairs
from qvl.data.sample import Sample, read_split
from qvl.errors import UsageError
from qvl.text.markup import Text
from qvl.text.tokenizer import Tokenizer

IMAGE = jpeg()
GOOD = 1600


def clean(inputs: list[Path], out: Path, source: str | Path = "in_house", **options: Any) -> Funnel:
    return clean_pairs(inputs, out, source, **{"workers": 1, **options})


def caption(sample: Sample) -> str:
    [segment] = sample.turns[1].content
    assert isinstance(segment, Text)
    return segment.text


def test_every_rule_drops_its_pair_under_its_name(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    path = make_tar(
        "00000",
        pair("good", "A red <b>kite</b> &amp; a dog - IMG_2031.JPG", similarity=0.4),
        pair("wide", image=jpeg(1000, 250), similarity=0.4),
        pair("small", image=jpeg(223, 300), similarity=0.4),
        pair("unlike", similarity=0.1),
        pair("russian", "Красный змей над полем", similarity=0.4),
        pair("smiling", "a red kite 😀", similarity=0.4),
        pair("short", "kite", similarity=0.4),
        pair("emptied", "<br/> IMG_0001.JPG", similarity=0.4),
    )
    funnel = clean([path], tmp_path / "out", "laion_en", keep_rejected=True)
    rules = ("aspect_ratio", "image_size", "clip_score", "characters", "emoji", "text_length", "left_over")
    assert {name: counts.dropped for name, counts in funnel.rules.items()} == {
        **dict.fromkeys(rules, 1),
        "html_tags": 0,
        "irregular_patterns": 0,
    }
    assert (funnel.rules["html_tags"].changed, funnel.rules["irregular_patterns"].changed) == (2, 2)
    assert (funnel.seen, funnel.kept, funnel.damaged_pairs) == (8, 1, 0)
    rejected = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    assert [(r["row"].partition("#")[2], r["rule"]) for r in rejected] == list(
        zip(("wide", "small", "unlike", "russian", "smiling", "short", "emptied"), rules, strict=True)
    )
    assert all(r["image"] for r in rejected)
    [sample] = read_split(tmp_path / "out")
    assert caption(sample) == "A red kite & a dog"
    assert lint_split(tmp_path / "out", Tokenizer.tiny(), 16, 2048).ok


def test_a_rule_may_drop_everything(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    funnel = clean([make_tar("a", pair("1", "x"), pair("2", "y"))], tmp_path / "out")
    assert (funnel.seen, funnel.kept, funnel.rules["text_length"].dropped) == (2, 0, 2)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_sample_says_where_it_comes_from(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    path = make_tar("00007", pair("k1", "中文 标题!!", image=IMAGE))
    clean([path.parent], tmp_path / "out")
    [sample] = read_split(tmp_path / "out")
    assert sample.language == "zh"
    assert sample.images == (IMAGE,)
    scores = sample.provenance.pop("scores")
    assert scores == {
        "aspect_ratio": 1.3333,
        "image_size": 240,
        "characters": 0,
        "emoji": 0,
        "text_length": 7,
        "left_over": 4,
    }
    version = sample.provenance.pop("settings")
    assert version.startswith("in_house@")
    assert sample.provenance == {
        "source": "in_house",
        "row": "raw/00007.tar#k1",
        "image_sha256": hashlib.sha256(IMAGE).hexdigest(),
        "url": "http://example.org/k1",
        "text_found": "中文 标题!!",
    }


def test_the_longest_of_several_captions_is_kept(tmp_path: Path) -> None:
    (tmp_path / "9.jpg").write_bytes(IMAGE)
    content = {
        "images": [{"id": 9, "file_name": "9.jpg"}],
        "annotations": [{"image_id": 9, "caption": text} for text in ("A dog.", "A brown dog runs.", "The dog.")],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    clean([tmp_path / "captions.json"], tmp_path / "out", "coco_caption")
    assert [caption(s) for s in read_split(tmp_path / "out")] == ["A brown dog runs."]


def damaged_inputs(folder: Path) -> dict[str, int]:
    """1,600 good pairs and, beside them, a hundredth as much damage of every kind we know; the counts by kind."""
    bomb = bytearray(jpeg())
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = (60000).to_bytes(2, "big") * 2
    good = {name: data for i in range(GOOD) for name, data in pair(f"good{i:04d}", image=IMAGE).items()}
    members = {
        **good,
        **pair("cut", image=IMAGE[: len(IMAGE) // 2]),
        **pair("words", image=b"<html>404 not found</html>"),
        **pair("nothing", image=b""),
        **pair("bomb", image=bytes(bomb)),
        **{**pair("json"), "json.json": b"{half"},
        **{**pair("latin"), "latin.txt": b"caf\xe9 au lait"},
        **{k: v for k, v in pair("mute").items() if k == "mute.jpg"},
        **{k: v for k, v in pair("blind").items() if k != "blind.jpg"},
        **pair("score", similarity="high"),
        **{k: v for k, v in pair("number").items() if k != "number.txt"},
    }
    members["number.json"] = json.dumps({"caption": 12}).encode()
    folder.mkdir()
    (folder / "a.tar").write_bytes(tar_of(members))
    whole = tar_of({**pair("one"), **pair("two")})
    (folder / "b.tar").write_bytes(whole[: whole.index(b"two.txt")])
    (folder / "c.tar").write_bytes(b"")
    (folder / "d.parquet").write_bytes(b"PAR1 no more")
    (folder / "e.jsonl").write_text('{"image": "gone.jpg", "caption": "x"}\n{half\n')
    return {
        "broken image": 1,
        "not an image": 1,
        "empty image": 1,
        "image too large": 1,
        "metadata is not JSON": 1,
        "caption is not UTF-8": 1,
        "no caption": 2,  # "mute", and "two" whose caption lay behind the cut
        "no image": 1,
        "caption is not text": 1,
        "CLIP score is not a number": 1,
        "archive cut short": 1,
        "empty file": 1,
        "file can't be read": 1,
        "missing image": 1,
        "line is not JSON": 1,
    }


SCORED = """
name = "scored"
about = "pairs with a score"
language = "en"
[columns]
text = ["caption", "txt"]
clip_score = ["similarity"]
[rules.image_size]
min_side = 10
"""


def test_damage_is_counted_by_kind_and_named(tmp_path: Path) -> None:
    expected = damaged_inputs(tmp_path / "raw")
    (tmp_path / "scored.toml").write_text(SCORED)
    funnel = clean([tmp_path / "raw"], tmp_path / "out", tmp_path / "scored.toml")
    assert dict(funnel.damages) == expected
    files = sum(expected[kind] for kind in ("archive cut short", "empty file", "file can't be read"))
    assert funnel.damaged_pairs == sum(expected.values()) - files
    assert funnel.kept == GOOD + 1  # and "one", before the cut
    assert sum(expected.values()) == GOOD // 100
    assert funnel.seen == funnel.kept + funnel.damaged_pairs
    lines = [json.loads(x) for p in (tmp_path / "out" / "quarantine").iterdir() for x in p.read_text().splitlines()]
    assert len(lines) == sum(expected.values())
    assert {(x["file"], x["key"], x["kind"]) for x in lines} >= {("raw/a.tar", "cut", "broken image")}


def test_odd_names_numbers_and_nesting_are_never_fatal(tmp_path: Path) -> None:
    """What a file can hold and a report, a float or a parser can't."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "kite.jpg").write_bytes(IMAGE)
    lines = [
        '{"key": "url", "image": "kite.jpg", "txt": "a kite", "url": "http://a/\\ud800"}',
        '{"key": "\\ud800", "image": "kite.jpg", "txt": "a kite"}',
        '{"key": "nul", "image": "kite\\u0000.jpg", "txt": "a kite"}',
        '{"key": "nan", "image": "kite.jpg", "txt": "a kite", "similarity": NaN}',
        '{"key": "huge", "image": "kite.jpg", "txt": "a kite", "similarity": 1' + 400 * "0" + "}",
        "[" * 200_000,
        '{"key": "section", "image": "kite.jpg", "txt": "a kite <![foo bar> high up"}',
    ]
    (raw / "a.jsonl").write_text("\n".join(lines))
    with tarfile.open(raw / "b.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, data in pair("café").items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (tmp_path / "scored.toml").write_text(SCORED + "[rules.html_tags]\n")
    funnel = clean([raw], tmp_path / "out", tmp_path / "scored.toml")
    assert dict(funnel.damages) == {"missing image": 1, "CLIP score is not a number": 2, "line is not JSON": 1}
    rows = {sample.provenance["row"]: caption(sample) for sample in read_split(tmp_path / "out")}
    assert rows == {
        "raw/a.jsonl#url": "a kite",
        "raw/a.jsonl#\\ud800": "a kite",
        "raw/a.jsonl#section": "a kite  high up",
        "raw/b.tar#caf\\udce9": "a red kite over a field",
    }


def test_any_number_of_workers_writes_the_same_files(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    for shard in range(4):
        make_tar(f"{shard:05d}", *(pair(f"{shard}{i}", f"kite number {i} of {shard}") for i in range(5)))
    clean([tmp_path / "raw"], tmp_path / "one", keep_rejected=True)
    clean([tmp_path / "raw"], tmp_path / "two", keep_rejected=True, workers=2)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


def test_a_killed_run_goes_on_and_ends_with_the_same_files(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    big = jpeg(1600, 1200)
    for shard in range(6):
        make_tar(f"{shard:05d}", *(pair(f"{shard}{i}", image=big) for i in range(60)))
    clean([tmp_path / "raw"], tmp_path / "whole")
    command = [
        sys.executable,
        "-m",
        "qvl",
        "data",
        "clean",
        str(tmp_path / "raw"),
        "--source",
        "in_house",
        "--workers",
        "1",
    ]
    command += ["--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    counts = tmp_path / "killed" / "counts"
    while process.poll() is None and len(list(counts.glob("in_house*.json"))) < 2:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in counts.glob("in_house*.json")}
    assert 2 <= len(done) < 6
    (tmp_path / "killed" / ".left.123.tmp.parquet").write_bytes(b"half a shard")
    clean([tmp_path / "raw"], tmp_path / "killed")
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())  # finished units were left alone
    assert content_of(tmp_path / "killed") == content_of(tmp_path / "whole")


def test_another_run_is_not_mixed_into_the_folder(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    first, out = make_tar("a", pair("1")), tmp_path / "out"
    clean([first], out)
    second = make_tar("b", pair("2"), pair("3"))
    with pytest.raises(UsageError, match="--overwrite"):
        clean([second], out)
    assert len(list(read_split(out))) == 1
    clean([second], out, overwrite=True)
    assert [s.provenance["row"] for s in read_split(out)] == ["b.tar#2", "b.tar#3"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for plan in (None, "{}", "our plan"):  # a plan.json of somebody else's
        if plan:
            (tmp_path / "mine" / "plan.json").write_text(plan)
        with pytest.raises(UsageError, match="not made by this tool"):
            clean([second], tmp_path / "mine", overwrite=True)
    (out / "notes.txt").write_text("precious")
    clean([first], out, overwrite=True)
    assert (out / "notes.txt").read_text() == "precious"
    assert len(list(read_split(out))) == 1


def test_a_missing_clip_score_is_an_error_that_says_what_to_do(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    path = make_tar("a", pair("1", similarity=0.4), pair("2"))
    with pytest.raises(UsageError, match=r"a\.tar: 1 pairs have no clip_score; name its column"):
        clean([path], tmp_path / "out", "laion_en")
    assert not list((tmp_path / "out").glob("*.parquet"))
    (tmp_path / "scored.toml").write_text(SCORED)  # the user takes the rule out: nothing stands in the way
    assert clean([path], tmp_path / "out", tmp_path / "scored.toml").kept == 2


def test_the_page_shows_counts_and_examples_beside_the_paper(tmp_path: Path, make_tar: Callable[..., Path]) -> None:
    make_tar("a", pair("1", "<i>a kite</i> & more"), pair("2", "kite 😀 <script>"), pair("3", image=b"x"))
    clean([tmp_path / "raw"], tmp_path / "out", "sbu")
    page = (tmp_path / "out" / PAGE_NAME).read_text()
    assert page == funnel_page([read_funnel(tmp_path / "out")])
    for text in ("33.3%", "80%", "emoji dropped", "kite 😀 &lt;script&gt;", "→ a kite &amp; more", "not an image"):
        assert text in page
    assert "<script" not in page


def test_the_command_says_what_became_of_the_pairs(
    tmp_path: Path, make_tar: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_tar("a", pair("1"), pair("2", "x"))
    command = ["data", "clean", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--workers", "1", "--source"]
    assert main([*command, "in_hose"]) == UsageError.exit_code
    assert "known are cc12m" in capsys.readouterr().err
    assert main([*command, "in_house"]) == 0
    assert "in_house: 2 pairs, 1 kept (50.0%; the paper kept 100%)" in capsys.readouterr().out
