"""Pages longer than a sequence: every line in exactly one part, every part fits, and its label says what it shows."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimal_pdf import lines_of_text, write_pdf
from PIL import Image

from qvl.cli import main
from qvl.data.lint import lint_split
from qvl.data.ocr.build import TOO_LONG, build_ocr
from qvl.data.ocr.cut import SequenceLimit, parts
from qvl.data.ocr.filters import NO_CUT
from qvl.data.ocr.page import Atom, Line, Page
from qvl.data.ocr.pdf import read_pdf
from qvl.data.sample import Sample, read_split
from qvl.text.markup import Quad, Ref, quad_to_pixels
from qvl.text.tokenizer import Tokenizer

PUBLISHED = SequenceLimit(Tokenizer.published(), 256, 2048)
SHORT = SequenceLimit(Tokenizer.tiny(), 16, 900)


def dense_pdf(path: Path) -> tuple[Path, list[str]]:
    """Two columns of 70 lines, at 6 points."""
    read = [f"column {c} line {r:02d}: {'pigeons sit on roofs ' * 2}" for c in range(2) for r in range(70)]
    placed = [(text, 30.0 + 280 * (i // 70), 800.0 - 10.5 * (i % 70)) for i, text in enumerate(read)]
    return write_pdf(path, lines_of_text(placed, 9), page="/MediaBox [0 0 595 842]"), read


def phrases(sample: Sample) -> list[str]:
    return [s.text for s in sample.turns[1].content if isinstance(s, Ref)]


@pytest.mark.parametrize("limit", [PUBLISHED, SHORT], ids=["published", "tiny"])
def test_every_line_of_a_dense_page_is_in_one_sample_that_fits(tmp_path: Path, limit: SequenceLimit) -> None:
    path, read = dense_pdf(tmp_path / "dense.pdf")
    [whole] = read_pdf(path)
    assert isinstance(whole, Page)
    report = build_ocr([path], tmp_path / "out", sequence=limit)
    samples = list(read_split(tmp_path / "out"))
    assert report.pages_kept == 1 < len(samples) == report.samples
    tokens = sum(limit.tokens([line]) - limit.tokens([]) for line in whole.lines)
    assert len(samples) <= 1.5 * tokens / (limit.max_length - limit.tokens([])) + 1
    assert Counter(p for s in samples for p in phrases(s)) == Counter(text.strip() for text in read)
    assert lint_split(tmp_path / "out", limit.tokenizer, limit.num_image_tokens, limit.max_length).ok
    places = [sample.provenance["part"] for sample in samples]
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in places) == 1024 * 724, "the parts are the page"


def test_parts_keep_the_pixels_and_hold_all_ink_of_their_lines(tmp_path: Path) -> None:
    path, _ = dense_pdf(tmp_path / "dense.pdf")
    build_ocr([path], tmp_path / "out", sequence=PUBLISHED)
    for sample in read_split(tmp_path / "out"):
        picture = 1 - np.asarray(Image.open(io.BytesIO(sample.images[0])).convert("L")) / 255
        total = float(picture.sum())
        for quad in (s for s in sample.turns[1].content if isinstance(s, Quad)):
            (x0, y0), _, (x1, y1), _ = quad_to_pixels(quad, *reversed(picture.shape))
            picture[max(int(y0) - 1, 0) : int(y1) + 2, max(int(x0) - 1, 0) : int(x1) + 2] = 0
        assert float(picture.sum()) < 0.001 * total
        assert min(picture.shape) > 150, "no part is a sliver"


def page_of(boxes: list[tuple[int, int, int, int]]) -> Page:
    lines = []
    for number, (x, y, width, height) in enumerate(boxes):
        box = (float(x), float(y), float(x + width), float(y + height))
        lines.append(Line((Atom(f"line{number}", box, box),)))
    return Page(Image.new("RGB", (400, 400)), tuple(lines), "made up", 1)


boxes = st.tuples(st.integers(0, 300), st.integers(0, 380), st.integers(5, 100), st.integers(5, 20))


@settings(max_examples=60)
@given(st.lists(boxes, min_size=1, max_size=25), st.integers(120, 400))
def test_lines_are_in_one_part_or_named_as_lost(places: list[tuple[int, int, int, int]], length: int) -> None:
    """Wherever lines stand, over each other too; parts never overlap and hold their lines whole."""
    limit = SequenceLimit(SHORT.tokenizer, 16, length)
    page = page_of(places)
    made, lost = parts(page, limit)
    found = Counter(line.text for part in made for line in part.lines) + Counter(line.text for line in lost)
    assert found == Counter(line.text for line in page.lines)
    covered = np.zeros((400, 400), dtype=int)
    for part in made:
        assert limit.tokens(part.lines) <= length
        assert part.lines == tuple(sorted(part.lines, key=lambda line: int(line.text[4:]))), "in the page's order"
        for line in part.lines:
            x0, y0, x1, y1 = line.ink
            assert 0 <= x0 < x1 <= part.image.width
            assert 0 <= y0 < y1 <= part.image.height
        if part.place:
            x0, y0, x1, y1 = map(int, part.place)
            covered[y0:y1, x0:x1] += 1
    assert covered.max() <= 1


def test_a_page_of_lines_too_long_for_any_sequence_is_counted(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "long.pdf", lines_of_text([("x7q9 " * 40, 10, 100), ("short", 10, 50)], 3))
    limit = SequenceLimit(Tokenizer.tiny(), 16, 120)
    report = build_ocr([path], tmp_path / "out", sequence=limit)
    assert (report.pages_kept, report.samples, report.left_out[TOO_LONG]) == (1, 1, 1)
    assert f"left out of kept pages 1: {TOO_LONG}" in report.summary()
    only = write_pdf(tmp_path / "only.pdf", lines_of_text([("x7q9 " * 40, 10, 100)], 3))
    assert dict(build_ocr([only], tmp_path / "none", sequence=limit).dropped) == {NO_CUT: 1}


def test_what_the_command_writes_its_linter_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, read = dense_pdf(tmp_path / "dense.pdf")
    flags = ["--vocabulary", "tiny", "--length", "900"]
    assert main(["data", "pdf", str(path), "--out", str(tmp_path / "out"), *flags]) == 0
    assert "1 files, 1 pages: 1 kept, 0 dropped" in capsys.readouterr().out
    assert main(["data", "lint", str(tmp_path / "out"), *flags]) == 0
    assert sum(len(phrases(sample)) for sample in read_split(tmp_path / "out")) == len(read)
