"""Real pages: HTML through Chromium, PDF printed by it. What a quad names is what stands in it."""

import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image as PILImage
from playwright.sync_api import sync_playwright

from qvl.data.lint import lint
from qvl.data.ocr import html
from qvl.data.ocr.build import UNCUT, build_ocr, bundled_documents
from qvl.data.ocr.crops import CropSettings
from qvl.data.ocr.html import HtmlSettings, find_browser
from qvl.data.sample import Sample, read_split
from qvl.errors import MissingDependencyError, UsageError
from qvl.text.markup import Quad, Ref, quad_to_pixels

PAGE = """<!doctype html><meta charset="utf-8">
<style>body {{ font: 28px sans-serif; margin: 40px; print-color-adjust: exact }}</style>
<p>Sixteen pigeons sat on the roof</p><p>屋顶上坐着十六只鸽子</p><p style="color:white">unseen words</p>{extra}"""


class QuietHandler(SimpleHTTPRequestHandler):
    """Files of a folder, without a line per request."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A web page, and the same as a PDF printed from it."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "page.html").write_text(PAGE.format(extra=""), encoding="utf-8")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((folder / "page.html").as_uri())
        page.pdf(path=folder / "page.pdf", format="A5")
        browser.close()
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


def outside(sample: Sample) -> np.ndarray:
    """All pixels but those of the quads, one pixel around them included, as darkness 0..1."""
    picture = 1 - np.asarray(PILImage.open(io.BytesIO(sample.images[0])).convert("L")) / 255
    kept = np.ones(picture.shape, dtype=bool)
    for quad in (s for s in sample.turns[1].content if isinstance(s, Quad)):
        corners = np.array(quad_to_pixels(quad, picture.shape[1], picture.shape[0]))
        (x1, y1), (x2, y2) = corners.min(0).astype(int) - 1, corners.max(0).astype(int) + 2
        kept[max(y1, 0) : y2, max(x1, 0) : x2] = False
    return picture[kept]


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


def test_crops_are_square_and_hold_a_tall_word_or_two(tmp_path: Path) -> None:
    report = build_ocr(bundled_documents(), tmp_path, mode="crop")
    samples = list(read_split(tmp_path))
    assert report.samples == len(samples) > 200
    assert {sample.language for sample in samples} == {"en", "zh"}
    heights = []
    for sample in samples:
        assert lint(sample) == []
        assert PILImage.open(io.BytesIO(sample.images[0])).size == (112, 112)
        [(text, pixels)] = labelled(sample)
        assert len(text) <= 12
        assert text.count(" ") < 2
        assert float(np.ptp(pixels)) > 0.4  # there is ink in the quad,
        assert float(np.ptp(outside(sample))) < 0.2  # and no more than its soft edge outside
        heights.append(pixels.shape[0])
    assert np.median(heights) >= 16  # words without tall letters are lower than their line


def test_every_word_is_in_a_crop_or_counted(tmp_path: Path) -> None:
    words = "<p>Otorhinolaryngologists fly to incomprehensibilities</p>"
    (tmp_path / "page.html").write_text(PAGE.format(extra=words), encoding="utf-8")
    report = build_ocr([tmp_path / "page.html"], tmp_path / "out", mode="crop")
    shown = [phrase for sample in read_split(tmp_path / "out") for phrase, _ in labelled(sample)]
    count = sum(len(word) if ord(word[0]) > 0x3000 else 1 for phrase in shown for word in phrase.split())
    assert "fly" in " ".join(shown)
    assert report.left_out[UNCUT] >= 2
    assert count + report.left_out[UNCUT] == 6 + 10 + 4


def test_crops_of_another_side_stop_at_the_number_asked_for(tmp_path: Path) -> None:
    settings = CropSettings(side=224, min_text_height=24)
    report = build_ocr(bundled_documents(), tmp_path, mode="crop", crop=settings, max_samples=7)
    samples = list(read_split(tmp_path))
    assert report.reached_max_samples
    assert len(samples) == report.samples == 7
    assert all(PILImage.open(io.BytesIO(s.images[0])).size == (224, 224) for s in samples)


def test_cells_of_a_table_are_lines_of_their_own(tmp_path: Path) -> None:
    cells = "<table><tr><td>Second<td style='padding-left: 10px'>to point</table>"
    (tmp_path / "page.html").write_text(PAGE.format(extra=cells), encoding="utf-8")
    build_ocr([tmp_path / "page.html"], tmp_path / "out")
    [sample] = read_split(tmp_path / "out")
    assert [phrase for phrase, _ in labelled(sample)][-2:] == ["Second", "to point"]


@pytest.mark.parametrize(
    ("extra", "phrases"),
    [
        ("<div style='columns: 2'><p>plain <b>bo</b>ld</div>", ["plain bold"]),
        ("<p style='overflow: hidden; width: 100px; height: 40px'>short overflowing", ["short"]),
        ("<ol><li>one item</ol><input value='typed'>", ["one item"]),
    ],
)
def test_labels_are_what_the_page_shows_and_all_of_it(tmp_path: Path, extra: str, phrases: list[str]) -> None:
    (tmp_path / "page.html").write_text(PAGE.format(extra=extra), encoding="utf-8")
    build_ocr([tmp_path / "page.html"], tmp_path / "out")
    [sample] = read_split(tmp_path / "out")
    assert [phrase for phrase, _ in labelled(sample)][2:] == phrases


def test_same_input_gives_the_same_shards(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_ocr([folder], tmp_path / name, mode="crop")
    one, two = (sorted((tmp_path / name).glob("*.parquet")) for name in ("a", "b"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


COVER = "<div style='position: absolute; left: 60px; top: 300px; width: 20px; height: 300px; background: white'></div>"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("<p>Žluťoučký kůň</p>", "Latin Extended-A or -B character"),
        ("<p>Шестнадцать голубей сидели на крыше</p>", "neither English nor Chinese"),
        ("<p style='rotate: 5deg'>leaning words</p>", "slanted text"),
        ("<p style='writing-mode: sideways-rl'>lying on its side</p>", "slanted text"),
        ("<p style='font-size: 2px'>one hundred words in fine print</p>", "text too small to read"),
        ("<p>one line <span style='position: absolute; left: 42px'>over another", "text over text"),
        ("<p>שלום לכולם</p>", "right-to-left text"),
        (f"<div style='position: absolute; top: 400px'>coveredinthemiddle</div>{COVER}", "text without a label"),
        ("<p>\ue000 private</p>", "Private Use Area character"),
        ("<p>" + "many words here " * 700 + "</p>", "too many characters"),
    ],
)
def test_pages_that_the_paper_drops_are_counted_by_reason(tmp_path: Path, extra: str, reason: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE.format(extra=extra), encoding="utf-8")
    report = build_ocr([page], tmp_path / "out", max_side=4096)
    assert dict(report.dropped) == {reason: 1}
    assert (report.pages_seen, report.pages_kept, report.samples) == (1, 0, 0)
    assert json.loads((tmp_path / "out" / "funnel.json").read_text())["dropped"] == {reason: 1}
    assert reason in report.summary()


def test_broken_files_are_named_and_the_rest_goes_on(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "empty.html").write_bytes(b"")
    (source / "broken.pdf").write_bytes((folder / "page.pdf").read_bytes()[:300])
    (source / "good.pdf").write_bytes((folder / "page.pdf").read_bytes())
    report = build_ocr([source], tmp_path / "out")
    assert report.samples == 1
    broken, empty = report.failures
    assert broken.startswith("broken.pdf: corrupt")
    assert empty.startswith("empty.html: empty file")


def test_the_end_of_an_endless_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "WINDOW", 600)
    monkeypatch.setattr(html, "MAX_HEIGHT", 600)
    (tmp_path / "page.html").write_text(PAGE.format(extra="<p style='margin-top: 900px'>the end"), encoding="utf-8")
    report = build_ocr([tmp_path / "page.html"], tmp_path / "out")
    assert report.samples == 1
    assert "only the upper 600 of" in report.failures[0]


@pytest.mark.parametrize("mode", ["page", "crop"])
def test_a_long_page_is_read_through_several_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Each line once, and the same lines as through one window."""
    rows = "".join(f"<p>row {n:02d}</p>" for n in range(40))
    (tmp_path / "page.html").write_text(PAGE.format(extra=rows), encoding="utf-8")
    settings = CropSettings(max_words=2)
    whole = build_ocr([tmp_path / "page.html"], tmp_path / "whole", mode=mode, crop=settings)
    monkeypatch.setattr(html, "WINDOW", 3000 if mode == "crop" else 1500)  # 1500 pixels of the page, more than a screen
    report = build_ocr([tmp_path / "page.html"], tmp_path / "windows", mode=mode, crop=settings)
    assert report.failures == whole.failures == []
    one, several = (list(read_split(tmp_path / name)) for name in ("whole", "windows"))
    if mode == "page":
        read = [[phrase for phrase, _ in labelled(sample)] for sample in several]
        assert [text for phrases in read for text in phrases][2:] == [f"row {n:02d}" for n in range(40)]
        assert read == [[phrase for phrase, _ in labelled(sample)] for sample in one]
    assert [sample.id for sample in several] == [sample.id for sample in one]


@pytest.mark.parametrize(("module", "name"), [("playwright", "page.html"), ("pypdfium2", "page.pdf")])
def test_a_missing_package_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{module}: pip install 'qvl\[ocr\]'"):
        build_ocr([folder / name], tmp_path / "out")
    assert not list((tmp_path).rglob("*"))  # nothing half-written


def test_an_address_is_read_where_the_network_is_allowed(folder: Path, tmp_path: Path) -> None:
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        report = build_ocr(
            [f"{address}/page.html", "http://127.0.0.1:9/gone"], tmp_path, html=HtmlSettings(allow_network=True)
        )
        server.shutdown()
    assert (report.pages_kept, report.samples) == (1, 1)
    assert report.failures[0].startswith("http://127.0.0.1:9/gone: can't be rendered")
    [sample] = read_split(tmp_path)
    assert sample.provenance["source"] == f"{address}/page.html"


def test_without_a_browser_old_shards_stay(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_ocr([folder / "page.pdf"], tmp_path)
    before = sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir())
    with pytest.raises(UsageError, match="already holds 1 shards"):
        build_ocr([folder / "page.pdf"], tmp_path)
    monkeypatch.setattr(html, "BROWSERS", ("no-such-browser",))
    with pytest.raises(MissingDependencyError, match="Chromium"):
        build_ocr([folder], tmp_path, overwrite=True)
    assert sorted((p.name, p.read_bytes()) for p in tmp_path.iterdir()) == before


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


def test_a_link_in_the_folder_does_not_lead_out_of_it(tmp_path: Path) -> None:
    """Also one whose name is no UTF-8."""
    PILImage.new("RGB", (300, 40), "black").save(tmp_path / "secret.png")
    inner = tmp_path / "inner"
    inner.mkdir()
    PILImage.new("RGB", (300, 40), "black").save(inner / "own.png")
    names = ["link.png", os.fsdecode(b"\xd6\xd0.png")]
    for name in names:
        (inner / name).symlink_to(tmp_path / "secret.png")
    images = "".join(f"<img src='{quote(os.fsencode(name))}'>" for name in ["own.png", *names])
    (inner / "page.html").write_text(PAGE.format(extra=images), encoding="utf-8")
    report = build_ocr([inner / "page.html"], tmp_path / "out")
    assert report.blocked_requests == 2


def test_names_of_documents_can_be_printed_and_tell_them_apart(folder: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xd6\xd0.pdf")
    places = [f"{top}/{name}" for top in "ab" for name in ("x.pdf", "in/x.pdf")] + [f"c/{odd}"]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"%PDF nothing")
    (tmp_path / "c" / "page.pdf").write_bytes((folder / "page.pdf").read_bytes())
    inputs = [tmp_path / name for name in ("a/x.pdf", "b", "a/in/x.pdf", "c")]
    report = build_ocr(inputs, tmp_path / "out", mode="crop")
    names = ["a/x.pdf", "b/in/x.pdf", "b/x.pdf", "a/in/x.pdf", "\\udcd6\\udcd0.pdf"]
    assert [failure.split(":")[0] for failure in report.failures] == names
    assert "\\udcd6\\udcd0.pdf: corrupt" in (tmp_path / "out" / "funnel.json").read_text().replace("\\\\", "\\")
    assert {sample.provenance["source"] for sample in read_split(tmp_path / "out")} == {"page.pdf"}


def test_inputs_that_are_not_documents(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        build_ocr([tmp_path / "nothing.pdf"], tmp_path / "out")
    with pytest.raises(UsageError, match="--allow-network"):
        build_ocr(["http://example.org/"], tmp_path / "out")
    with pytest.raises(UsageError, match=r"no \.pdf"):
        build_ocr([tmp_path], tmp_path / "out")
