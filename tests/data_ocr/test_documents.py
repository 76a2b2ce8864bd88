"""Real pages: HTML through Chromium, PDF through pdfium. What a quad names is what stands in it."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from qvl.data.lint import lint
from qvl.data.ocr.build import build_ocr, bundled_documents
from qvl.data.ocr.html import Browser
from qvl.data.sample import Sample, read_split
from qvl.errors import UsageError
from qvl.text.markup import Quad, Ref, quad_to_pixels

PAGE = """<!doctype html><meta charset="utf-8">
<style>body {{ font: 28px sans-serif; margin: 40px; print-color-adjust: exact }}</style>
<p>Sixteen pigeons sat on the roof</p><p>屋顶上坐着十六只鸽子</p><p style="color:white">unseen words</p>{extra}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A web page, and the same as a PDF printed from it."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "page.html").write_text(PAGE.format(extra=""), encoding="utf-8")
    with Browser() as browser:
        browser.print_pdf(folder / "page.html", folder / "page.pdf")
    return folder


def labelled(sample: Sample) -> Iterator[tuple[str, np.ndarray]]:
    """Each phrase with the pixels in its quad, as darkness 0..1."""
    picture = np.asarray(PILImage.open(io.BytesIO(sample.images[0])).convert("L")) / 255
    phrase = ""
    for segment in sample.turns[1].content:
        if isinstance(segment, Ref):
            phrase = segment.text
        elif isinstance(segment, Quad):
            corners = np.array(quad_to_pixels(segment, picture.shape[1], picture.shape[0]))
            (x1, y1), (x2, y2) = corners.min(0), corners.max(0)
            yield phrase, 1 - picture[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]


@pytest.mark.parametrize("name", ["page.html", "page.pdf"])
def test_pages_give_each_visible_line_with_its_quad(folder: Path, tmp_path: Path, name: str) -> None:
    report = build_ocr([folder / name], tmp_path)
    assert (report.files, report.pages_seen, report.pages_kept, report.samples) == (1, 1, 1, 1)
    [sample] = read_split(tmp_path)
    assert lint(sample) == []
    found = dict(labelled(sample))
    assert list(found) == ["Sixteen pigeons sat on the roof", "屋顶上坐着十六只鸽子"]  # white on white is no label
    picture = 1 - np.asarray(PILImage.open(io.BytesIO(sample.images[0])).convert("L")) / 255
    inside = sum(float(pixels.sum()) for pixels in found.values())
    assert inside > 0.97 * float(picture.sum())  # all ink of the page lies in the quads
    assert all((pixels > 0.5).any(1).mean() > 0.9 for pixels in found.values())  # and they hug it


def test_crops_hold_their_words_only(tmp_path: Path) -> None:
    report = build_ocr(bundled_documents(), tmp_path, mode="crop")
    samples = list(read_split(tmp_path))
    assert report.samples == len(samples) > 50
    assert {sample.language for sample in samples} == {"en", "zh"}
    for sample in samples:
        assert lint(sample) == []
        picture = PILImage.open(io.BytesIO(sample.images[0]))
        assert picture.width == picture.height
        assert all(float(pixels.max()) > 0.3 for _, pixels in labelled(sample))


def test_same_input_gives_the_same_shards(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_ocr([folder], tmp_path / name, mode="crop")
    one, two = (sorted((tmp_path / name).glob("*.parquet")) for name in ("a", "b"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("<p>Žluťoučký kůň</p>", "Latin Extended-A or -B character"),
        ("<p>\ue000 private</p>", "Private Use Area character"),
        ("<p>" + "many words here " * 300 + "</p>", "too many characters"),
    ],
)
def test_pages_that_the_paper_drops_are_counted_by_reason(tmp_path: Path, extra: str, reason: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(extra=extra), encoding="utf-8")
    report = build_ocr([page], tmp_path / "out", max_side=4096)
    assert dict(report.dropped) == {reason: 1}
    assert (report.pages_seen, report.pages_kept, report.samples) == (1, 0, 0)


def test_broken_files_are_named_and_the_rest_goes_on(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "empty.html").write_bytes(b"")
    (source / "broken.pdf").write_bytes((folder / "page.pdf").read_bytes()[:300])
    (source / "good.pdf").write_bytes((folder / "page.pdf").read_bytes())
    report = build_ocr([source], tmp_path / "out")
    assert report.samples == 1
    assert set(report.failures) == {"empty.html", "broken.pdf"}
    assert "empty file" in report.failures["empty.html"]


def test_a_page_loads_nothing_from_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    inner = tmp_path / "inner"
    inner.mkdir()
    outside = (
        '<img src="../secret.png"><img src="http://127.0.0.1:9/x.png"><script>document.body.append("run")</script>'
    )
    (inner / "page.html").write_text(PAGE.format(extra=outside), encoding="utf-8")
    report = build_ocr([inner / "page.html"], tmp_path / "out")
    assert report.blocked_requests == 2
    [sample] = read_split(tmp_path / "out")
    assert "run" not in [phrase for phrase, _ in labelled(sample)]


def test_inputs_that_are_not_documents(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        build_ocr([tmp_path / "nothing.pdf"], tmp_path / "out")
    with pytest.raises(UsageError, match="--allow-network"):
        build_ocr(["http://example.org/"], tmp_path / "out")
    with pytest.raises(UsageError, match=r"no \.pdf"):
        build_ocr([tmp_path], tmp_path / "out")
