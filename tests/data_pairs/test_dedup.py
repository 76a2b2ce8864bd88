"""Pictures that came before, and evaluation pictures, are found; others stay."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from PIL import ImageEnhance

from qvl.cli import main
from qvl.data.dedup import dedup_split
from qvl.data.likeness import HashIndex, picture_hash
from qvl.data.sample import Sample, Turn, read_split, write_shard
from qvl.errors import UsageError
from qvl.text.markup import Text
from qvl.text.prompts import caption_prefix


def picture(seed: int, size: tuple[int, int] = (320, 240)) -> PILImage.Image:
    """Something with large shapes, as photographs have."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return PILImage.fromarray(noise).resize(size, PILImage.Resampling.BICUBIC)


def encoded(image: PILImage.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def sample(name: str, image: bytes, task: str = "caption") -> Sample:
    turns = (Turn("user", caption_prefix("en")), Turn("assistant", (Text(name),)))
    return Sample(name, task, "en", (image,), turns, {"source": "s", "row": f"raw#{name}", "settings": "v"})


def bits(first: PILImage.Image, second: PILImage.Image) -> int:
    a, b = picture_hash(first), picture_hash(second)
    assert a is not None
    assert b is not None
    return (a ^ b).bit_count()


def test_copies_differ_in_few_bits_and_other_pictures_in_many() -> None:
    for seed in range(20):
        image = picture(seed)
        small = PILImage.open(io.BytesIO(encoded(image.resize((160, 120)), 50)))
        assert bits(image, small) <= 6
        assert bits(image, ImageEnhance.Brightness(image).enhance(0.8)) <= 6
        assert bits(image, picture(seed + 1000)) > 12
    assert picture_hash(PILImage.new("RGB", (99, 99), "white")) is None


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 2**64 - 1), st.integers(0, 7), st.integers(0, 99)
)
def test_the_index_finds_what_a_full_search_finds(values: list[int], probe: int, distance: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):  # some that are near the probe
        near = probe
        for bit in rng.sample(range(64), rng.randrange(10)):
            near ^= 1 << bit
        values.append(near)
    index = HashIndex(distance)
    for i, value in enumerate(values):
        index.add(value, str(i))
    found = index.find(probe)
    best = min((value ^ probe).bit_count() for value in values)
    assert (found is not None) == (best <= distance)
    if found:
        assert found[1] == best == (values[int(found[0])] ^ probe).bit_count()


def test_a_split_loses_copies_and_evaluation_pictures_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, secret, flat = (encoded(p) for p in (picture(1), picture(2), picture(3), PILImage.new("RGB", (64, 64))))
    again = encoded(picture(1).resize((200, 150)), 70)
    write_shard([sample("a", one), sample("b", two), sample("f", flat)], tmp_path / "in" / "0.parquet")
    write_shard(
        [sample("c", again), sample("d", secret), sample("g", flat), sample("q", one, "vqa"), sample("r", one, "vqa")],
        tmp_path / "in" / "1.parquet",
    )
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "x.png").write_bytes(b"no image")
    PILImage.open(io.BytesIO(secret)).resize((150, 110)).save(tmp_path / "eval" / "secret.png")
    command = ["data", "dedup", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--against", str(tmp_path / "eval")]) == 0
    printed = capsys.readouterr().out
    assert "8 samples, 6 kept" in printed
    assert "compared with 1 evaluation pictures" in printed
    assert "not compared, 1 unreadable" in printed
    assert [s.id for s in read_split(tmp_path / "out")] == ["a", "b", "f", "g", "q", "r"]
    removed = [json.loads(line) for line in (tmp_path / "out" / "removed.jsonl").read_text().splitlines()]
    assert [(r["id"], r["row"], r["why"], Path(r["like"]).name) for r in removed] == [
        ("c", "raw#c", "near duplicate", "a"),
        ("d", "raw#d", "close to an evaluation picture", "secret.png"),
    ]
    assert main(command) == UsageError.exit_code  # the folder is taken


def test_a_folder_without_evaluation_pictures_is_an_error(tmp_path: Path) -> None:
    write_shard([sample("a", encoded(picture(1)))], tmp_path / "in" / "0.parquet")
    (tmp_path / "eval").mkdir()
    for folder in (tmp_path / "eval", tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=str(folder)):
            dedup_split(tmp_path / "in", tmp_path / "out", against=[folder], workers=1)
    assert not (tmp_path / "out").exists()
