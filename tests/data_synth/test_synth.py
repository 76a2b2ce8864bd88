"""Quads hold exactly the ink of their words after every warp, no glyph is missing, and workers don't matter."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from qvl.cli import main
from qvl.data.lint import lint
from qvl.data.sample import read_split
from qvl.data.synth import build
from qvl.data.synth.build import SynthConfig, draw, synthesize
from qvl.data.synth.corpus import read_corpus
from qvl.data.synth.fonts import FOLDERS, Face, find_fonts, has_all
from qvl.data.synth.layout import set_block
from qvl.data.synth.warp import Bend, Homography, corners_of, jittered, rect_to_quad
from qvl.errors import MissingDependencyError, UsageError

FONTS = find_fonts()
LATIN = next(iter(FONTS.latin.values()))[0]
CHINESE = next(iter(FONTS.chinese.values()))[0]


def polygon(quad: np.ndarray, size: tuple[int, int], grow: float) -> np.ndarray:
    """Pixels whose centre lies within `grow` pixels of the quad's inside (negative: well inside)."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    inside = np.ones((size[1], size[0]), dtype=bool)
    for a, b in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        edge = (b - a) / np.linalg.norm(b - a)
        inside &= edge[0] * (y - a[1]) - edge[1] * (x - a[0]) >= -grow
    return inside


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), bent=st.booleans())
def test_a_quad_holds_its_rectangle_after_the_warp_and_hugs_it(seed: int, bent: bool) -> None:
    rng = random.Random(seed)
    width, height, room = 240, 120, 30
    x0, y0 = rng.randrange(10, 120), rng.randrange(10, 70)
    rect = (x0, y0, x0 + rng.randrange(20, 100), y0 + rng.randrange(12, 40))
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[rect[1] : rect[3], rect[0] : rect[2]] = 255
    bend = Bend(rng.uniform(2, 12), rng.uniform(1, 2.5) * width, rng.uniform(0, 6)) if bent else None
    mask = np.pad(mask, ((room, room), (0, 0)))
    mask = bend.mask(mask) if bend else mask
    flat = corners_of(width, height)
    homography = Homography.between(flat, jittered(flat + 40.0, 12, rng))
    shifted = Homography(homography.matrix @ np.array([[1, 0, 0], [0, 1, -room], [0, 0, 1.0]]))
    size = (width + 80, height + 80)
    ink = np.asarray(shifted.image(PILImage.fromarray(mask), size)) > 127
    quad = rect_to_quad(rect, bend, homography)
    assert not (ink & ~polygon(quad, size, 1.0)).any()  # nothing outside, to a pixel
    if bend is None:
        assert (ink | ~polygon(quad, size, -1.0)).all()  # and nothing inside is missing
    else:
        assert ink.sum() > 0.6 * polygon(quad, size, 0).sum()


@pytest.mark.parametrize(
    ("face", "words", "vertical"),
    [
        (LATIN, ["quick", "Jumping", "fox,", "over"] * 9, False),
        (CHINESE, ["中文字符", "很好", "看，"] * 9, False),
        (CHINESE, ["中文字符", "很好"] * 9, True),
    ],
)
def test_every_word_stands_in_its_rectangle(face: Face, words: list[str], vertical: bool) -> None:
    block = set_block(words, face, 28, 300, 200, random.Random(4), vertical)
    rects = [word.rect for line in block.lines for word in line]
    assert len(rects) > 5
    ink = block.mask > 0
    covered = np.zeros_like(ink)
    for x0, y0, x1, y1 in ((int(a), int(b), int(c), int(d)) for a, b, c, d in rects):
        part = ink[y0:y1, x0:x1]
        assert part[0].any()
        assert part[-1].any()  # the rectangle ends where the ink ends
        assert part[:, 0].any()
        assert part[:, -1].any()
        assert not covered[y0:y1, x0:x1].all()
        covered[y0:y1, x0:x1] = True
    assert not (ink & ~covered).any()  # and all ink has a rectangle


@pytest.mark.parametrize("seed", range(8))
def test_no_word_is_cut_by_the_edge(seed: int) -> None:
    for width in range(100, 200, 6):
        block = set_block(["ideal", "SOUND", "brisk"] * 4, LATIN, 35, width, 200, random.Random(seed), False)
        for x0, y0, x1, y1 in (word.rect for line in block.lines for word in line):
            assert x0 >= 0
            assert x1 <= width
            part = block.mask[int(y0) : int(y1), int(x0) : int(x1)]
            assert part[:, 0].any()
            assert part[:, -1].any()


def test_a_bent_line_as_wide_as_the_picture_is_followed_to_a_pixel() -> None:
    size, room = (400, 160), 50
    mask = np.zeros((160, 400), dtype=np.uint8)
    mask[room:110, 4:396] = 255
    flat = corners_of(*size)
    for phase in range(7):
        bend = Bend(20, 380, phase)
        quad = rect_to_quad((4, room, 396, 110), bend, Homography.between(flat, flat))
        assert not ((bend.mask(mask) > 127) & ~polygon(quad, size, 1.0)).any()


@pytest.mark.parametrize("level", ["word", "line", "block"])
@pytest.mark.parametrize("index", [0, 1, 2])  # English, Chinese, mixed
def test_a_picture_is_sound_at_every_level(level: str, index: int) -> None:
    config = SynthConfig(count=3, seed=5, level=level, fast=True)
    page = draw(config, index)
    assert page.labels
    sample = build.page_sample(page, config, index)
    assert lint(sample) == []
    assert PILImage.open(io.BytesIO(page.encoded)).size == page.size == (448, 448)


def test_words_show_on_dark_and_light_at_once(tmp_path: Path) -> None:
    stripes = np.where(np.arange(448)[None, :, None] // 45 % 2, 255, 0).astype(np.uint8)
    PILImage.fromarray(np.broadcast_to(stripes, (448, 448, 3)).copy()).save(tmp_path / "stripes.png")
    shown = []
    for index in range(0, 36, 3):
        page = draw(SynthConfig(count=36, seed=2, level="word", fast=True, photos=(str(tmp_path),)), index)
        grey = np.asarray(PILImage.open(io.BytesIO(page.encoded)).convert("L"), dtype=np.float64)
        for _, quad in page.labels:
            (x0, y0), (x1, y1) = quad.min(0).astype(int), quad.max(0).astype(int)
            columns = grey[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1]
            for part in np.array_split(columns, max(1, columns.shape[1] // 24), axis=1):
                shown.append(np.ptp(np.percentile(part, (2, 98))))
    assert len(shown) > 100
    assert sum(levels < 40 for levels in shown) < 0.01 * len(shown)  # one in thirteen without an outline


def test_no_character_is_labelled_that_its_font_lacks() -> None:
    labelled = 0
    for index in range(12):
        config = SynthConfig(count=12, seed=8, fast=True)
        page = draw(config, index)
        texts = [text for text, _ in page.labels]
        for face, count in page.faces:
            for text in texts[:count]:
                labelled += len(text)
                assert has_all(face, text), text
            del texts[:count]
        assert not texts
        if page.labels:
            fonts = build.page_sample(page, config, index).provenance["fonts"]
            assert [font["labels"] for font in fonts] == [count for _, count in page.faces]
    assert labelled > 300


def test_a_font_without_a_glyph_is_told_from_its_character_map() -> None:
    assert has_all(LATIN, "Quick fox")
    assert not has_all(LATIN, "中")
    assert has_all(CHINESE, "中文 Latin")


def test_a_font_with_a_broken_character_map_is_passed_over(tmp_path: Path) -> None:
    content = bytearray(Path(LATIN.path).read_bytes())
    with TTFont(LATIN.path) as font:
        table = font.reader.tables["cmap"]
    rng = random.Random(0)
    for number in range(30):
        broken = bytearray(content)
        for _ in range(40):
            broken[table.offset + rng.randrange(min(table.length, 200))] = rng.randrange(256)
        (tmp_path / f"{number}.ttf").write_bytes(broken)
    fonts = find_fonts((str(tmp_path), *FOLDERS))
    assert fonts.chinese == find_fonts(FOLDERS).chinese


def test_words_are_whole_and_of_their_language(tmp_path: Path) -> None:
    text = "He said “Hello there”... café is naïve; don’t! 使用Linux系统，“好”。"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    words = read_corpus([tmp_path / "a.txt"]).words
    assert words == {
        "en": ["He", "said", "Hello", "there", "is", "don't!", "Linux"],
        "zh": ["使用", "系统，", "“好”。"],
    }


def test_the_same_shards_from_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SHARD_SIZE", 2)
    config = SynthConfig(count=5, seed=3, fast=True)
    one = synthesize(config, tmp_path / "one", workers=1)
    synthesize(config, tmp_path / "two", workers=2)
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == ["fonts.txt", "synth-00000.parquet", "synth-00001.parquet", "synth-00002.parquet", "synth.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one.samples == len(list(read_split(tmp_path / "one"))) == 5 - one.empty


def test_a_text_of_the_user_is_drawn_in_its_order(tmp_path: Path) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("one two three four five six seven eight nine ten\n床前明月光，疑是地上霜。", encoding="utf-8")
    corpus = read_corpus([text])
    assert corpus.words["zh"] == ["床前明月光，", "疑是地上霜。"]
    taken = corpus.take(random.Random(1), "en", 4)
    start = corpus.words["en"].index(taken[0])
    assert taken == [corpus.words["en"][(start + i) % 10] for i in range(4)]


def test_what_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["data", "synth", "--out", str(tmp_path / "out"), "--workers", "1", "--count"]
    assert main([*out, "0"]) == UsageError.exit_code
    assert main([*out, "1", "--level", "letter"]) == UsageError.exit_code
    assert main([*out, "1", "--language", "fr"]) == UsageError.exit_code
    (tmp_path / "en.txt").write_text("English only")
    assert main([*out, "1", "--text", str(tmp_path / "en.txt"), "--language", "zh"]) == UsageError.exit_code
    assert "no zh text" in capsys.readouterr().err
    assert main([*out, "1", "--text", str(tmp_path / "none.txt")]) == UsageError.exit_code
    assert main([*out, "1", "--fonts", str(tmp_path)]) == MissingDependencyError.exit_code
    assert "scripts/fonts.sh" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
