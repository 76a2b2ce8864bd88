"""PDF pages made by hand: rotation, crop boxes, hidden text, ligatures, ciphers, against the rendered pixels."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from minimal_pdf import WORDS, lines_of_text, write_pdf

from qvl.data.ocr import filters
from qvl.data.ocr.build import build_ocr
from qvl.data.ocr.page import Page
from qvl.data.ocr.pdf import read_pdf
from qvl.data.sample import read_split
from qvl.errors import DataError


def only_page(path: Path, password: str | None = None) -> Page:
    [page] = read_pdf(path, max_side=800, password=password)
    assert isinstance(page, Page)
    return page


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


def ink_of(page: Page) -> tuple[int, int, int, int]:
    """The box around every dark pixel of the page, measured without the reader."""
    dark = np.asarray(page.image.convert("L")) < 200
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


@pytest.mark.parametrize("box", ["/MediaBox [0 0 300 400]", "/MediaBox [-20 50 500 700] /CropBox [30 100 330 500]"])
@pytest.mark.parametrize(("rotate", "first"), [(0, (0, 1)), (90, (2, 1)), (180, (2, 3)), (270, (0, 3))])
def test_quads_follow_rotation_and_crop_box(tmp_path: Path, box: str, rotate: int, first: tuple[int, int]) -> None:
    page = only_page(write_pdf(tmp_path / "a.pdf", page=f"{box} /Rotate {rotate}"))
    [line] = page.lines
    assert line.text == "Purple lamp"
    ink = ink_of(page)
    assert np.abs(np.array(line.ink) - ink).max() <= 1
    corner = (ink[first[0]], ink[first[1]])  # where the text, as it reads, has its top left
    assert np.abs(np.array(line.corners[0]) - corner).max() <= 1


@pytest.mark.parametrize(
    ("matrix", "first"), [("0 1 -1 0", (0, 3)), ("-1 0 0 -1", (2, 3)), ("0 -1 1 0", (2, 1))], ids=["up", "over", "down"]
)
def test_quads_follow_text_that_is_turned_on_its_page(tmp_path: Path, matrix: str, first: tuple[int, int]) -> None:
    page = only_page(write_pdf(tmp_path / "a.pdf", f"BT /F 24 Tf {matrix} 150 200 Tm (Purple lamp) Tj ET"))
    [line] = page.lines
    assert line.text == "Purple lamp"
    ink = ink_of(page)
    assert np.abs(np.array(line.ink) - ink).max() <= 1
    assert np.abs(np.array(line.corners[0]) - (ink[first[0]], ink[first[1]])).max() <= 1


PHOTO = "BI /W 2 /H 2 /CS /G /BPC 8 ID \x90\xc0\xa0\xf0 EI"  # four grey pixels
HIDDEN = {
    "white on white": "1 g BT /F 24 Tf 60 100 Td (secret) Tj ET 0 g",
    "under a white box": "BT /F 24 Tf 60 100 Td (secret) Tj ET 1 g 50 80 200 60 re f 0 g",
    "half under a white box": "BT /F 24 Tf 60 100 Td (secret) Tj ET 1 g 90 80 200 60 re f 0 g",
    "lower half under a white box": "BT /F 24 Tf 60 100 Td (secret) Tj ET 1 g 50 90 200 16 re f 0 g",
    "under a picture": f"BT /F 24 Tf 60 100 Td (secret) Tj ET q 200 0 0 60 50 80 cm {PHOTO} Q",
    "clipped away": "q 0 0 20 20 re W n BT /F 24 Tf 60 100 Td (secret) Tj ET Q",
    "half clipped away": "q 0 0 90 400 re W n BT /F 24 Tf 60 100 Td (secret) Tj ET Q",
    "outside the page": "BT /F 24 Tf 60 -50 Td (secret) Tj ET",
    "over the page's edge": "BT /F 24 Tf 270 100 Td (secret) Tj ET",
    "transparent": "/Clear gs BT /F 24 Tf 60 100 Td (secret) Tj ET",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_text_that_nobody_sees_whole_is_no_label_and_is_counted(tmp_path: Path, name: str) -> None:
    content = f"{WORDS} {HIDDEN[name]}" if name == "transparent" else f"{HIDDEN[name]} {WORDS}"
    path = write_pdf(tmp_path / "a.pdf", content, resources="/ExtGState << /Clear << /ca 0 >> >>")
    page = only_page(path)
    assert (texts(page), page.unseen) == (["Purple lamp"], 1)


def test_text_outside_the_crop_box_is_no_label(tmp_path: Path) -> None:
    content = f"BT /F 24 Tf 60 20 Td (trimmed off) Tj ET {WORDS}"
    page = only_page(write_pdf(tmp_path / "a.pdf", content, page="/MediaBox [0 0 300 400] /CropBox [0 100 300 400]"))
    assert (texts(page), page.unseen) == (["Purple lamp"], 2)


def test_text_on_a_picture_hugs_its_ink(tmp_path: Path) -> None:
    """The background's own edges are no ink of the text."""
    plain = only_page(write_pdf(tmp_path / "a.pdf"))
    photo = only_page(write_pdf(tmp_path / "b.pdf", f"q 300 0 0 400 0 0 cm {PHOTO} Q {WORDS}"))
    assert texts(photo) == ["Purple lamp"]
    assert np.abs(np.array(plain.lines[0].ink) - photo.lines[0].ink).max() <= 2


LIGATURES = "<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman /Encoding 5 0 R {extra} >>"
DIFFERENCES = "<< /Type /Encoding /BaseEncoding /WinAnsiEncoding /Differences [1 /fi /fl] >>"
MAP = """/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def
1 begincodespacerange <00> <ff> endcodespacerange
2 beginbfchar <01> <00660069> <02> <FB02> endbfchar
1 beginbfrange <20> <7e> <0020> endbfrange endcmap end end"""


@pytest.mark.parametrize("mapped", [False, True])
def test_ligatures_are_plain_letters_in_the_label(tmp_path: Path, mapped: bool) -> None:
    objects = [DIFFERENCES, f"<< /Length {len(MAP)} >>\nstream\n{MAP}\nendstream"]
    font = LIGATURES.format(extra="/ToUnicode 6 0 R" if mapped else "")
    content = "BT /F 24 Tf 60 200 Td (of\001ce \002oor) Tj ET"  # two glyphs of two letters each
    page = only_page(write_pdf(tmp_path / "a.pdf", content, font=font, objects=objects))
    [line] = page.lines
    assert line.text == "office floor"
    assert np.abs(np.array(line.ink) - ink_of(page)).max() <= 1


VERTICAL = [
    """<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /FontDescriptor 6 0 R /DW 1000
    /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> >>""",
    """<< /Type /FontDescriptor /FontName /STSong-Light /Flags 6 /FontBBox [-25 -254 1000 880] /ItalicAngle 0
    /Ascent 880 /Descent -120 /CapHeight 880 /StemV 93 >>""",
]


def test_vertical_chinese_is_read_down_and_from_right_to_left(tmp_path: Path) -> None:
    font = "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light-UniGB-UCS2-V /Encoding /UniGB-UCS2-V "
    font += "/DescendantFonts [5 0 R] >>"
    columns = ["屋顶上坐着鸽子", "十六只灰色的鸟", "天黑以前飞走了"]
    draw = "".join(  # drawn from the left
        f"BT /F 20 Tf {80 + 40 * place} 350 Td <{text.encode('utf-16-be').hex()}> Tj ET "
        for place, text in enumerate(reversed(columns))
    )
    page = only_page(write_pdf(tmp_path / "a.pdf", draw, font=font, objects=VERTICAL))
    assert texts(page) == columns
    for line in page.lines:
        x0, y0, x1, y1 = line.ink
        assert y1 - y0 > 5 * (x1 - x0)
        assert line.corners[0] == (x0, y0)  # upright characters: the top left of the first


def two_columns(titles: bool = True) -> tuple[list[str], list[tuple[str, float, float]]]:
    """(lines as they read, and with their places): a title over two columns of unequal length."""
    read, placed = ["On the habits of pigeons that live on roofs"] if titles else [], []
    placed += [(read[0], 50.0, 370.0)] if titles else []
    for column, count in ((0, 14), (1, 11)):
        for row in range(count):
            text = f"column {column} row {row:02d} with some more words"
            read.append(text)
            placed.append((text, 20.0 + 140 * column, 340.0 - 13 * row))
    return read, placed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_columns_in_any_order_are_read_one_after_the_other(tmp_path: Path, seed: int) -> None:
    read, placed = two_columns()
    random.Random(seed).shuffle(placed)
    assert texts(only_page(write_pdf(tmp_path / "a.pdf", lines_of_text(placed, 6)))) == read


def test_words_drawn_in_any_order_become_lines(tmp_path: Path) -> None:
    """Each word on its own; Courier, so that its width is known."""
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>"
    read = [f"row {row:02d} has five words" for row in range(12)]
    placed = []
    for row, text in enumerate(read):
        for match in re.finditer(r"\S+", text):
            placed.append((match[0], 30.0 + 6 * match.start(), 350.0 - 14 * row))
    random.Random(5).shuffle(placed)
    assert texts(only_page(write_pdf(tmp_path / "a.pdf", lines_of_text(placed), font=font))) == read


@pytest.mark.parametrize("seed", [0, 1])
def test_a_table_is_read_row_by_row(tmp_path: Path, seed: int) -> None:
    """A cell of two lines belongs to its row."""
    placed, read = [], []
    for row in range(8):
        y = 350.0 - 34 * row
        cells = [(f"name {row}", 20.0, y), (f"{row}.5 kg", 100.0, y), (f"the first line of {row}", 160.0, y)]
        cells.append((f"and the second of {row}", 160.0, y - 12))
        placed += cells
        read += [text for text, _, _ in cells]
    random.Random(seed).shuffle(placed)
    assert texts(only_page(write_pdf(tmp_path / "a.pdf", lines_of_text(placed)))) == read


def test_a_sidebar_is_read_where_the_file_has_it(tmp_path: Path) -> None:
    side = [(f"see also page {n}", 20.0, 350.0 - 20 * n) for n in range(10)]
    main = [(f"the {n:02d}th line of what this page is about", 110.0, 352.0 - 13 * n) for n in range(16)]
    page = only_page(write_pdf(tmp_path / "a.pdf", lines_of_text([*main, *side], 9)))
    assert texts(page) == [text for text, _, _ in [*main, *side]]


def font_that_says(code_points: str) -> dict[str, object]:
    """Arguments of write_pdf: a font in which the letter A stands for these characters."""
    mapped = f"1 beginbfchar <41> <{code_points.encode('utf-16-be').hex()}> endbfchar"
    cmap = re.sub("2 beginbfchar.*endbfrange", mapped, MAP, flags=re.DOTALL)
    objects = [
        DIFFERENCES,
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream",
    ]
    return {"font": LIGATURES.format(extra="/ToUnicode 6 0 R"), "objects": objects}


A = "BT /F 24 Tf 20 100 Td (A) Tj ET"
DROPPED: dict[str, dict[str, object]] = {
    filters.TOO_SMALL: {"page": "/MediaBox [0 0 60 400]"},
    filters.TOO_FEW: {"content": "BT /F 24 Tf 60 200 Td (Lamp) Tj ET"},
    filters.TOO_MANY: {"content": lines_of_text([("many words " * 20, 5, 8 * n) for n in range(1, 49)], 2.5)},
    filters.LATIN_EXTENDED: {"content": WORDS + A, **font_that_says("ž")},
    filters.PRIVATE_USE: {"content": WORDS + A, **font_that_says("\ue001")},
    filters.RIGHT_TO_LEFT: {"content": WORDS + A, **font_that_says("ש")},
    filters.UNDECODABLE: {"content": WORDS + A, **font_that_says("\ufffd")},
    filters.OTHER_SCRIPT: {"content": WORDS + A, **font_that_says("ж")},
    filters.HIDDEN_LAYER: {"content": f"{WORDS} BT 3 Tr /F 12 Tf 60 100 Td (scanner text) Tj ET"},
    filters.MASK: {"content": f"{WORDS} q BT 7 Tr /F 24 Tf 60 100 Td (seen) Tj ET 0 80 300 60 re f Q"},
    filters.SLANTED: {"content": f"{WORDS} BT /F 24 Tf 0.9 0.4 -0.4 0.9 60 100 Tm (leaning) Tj ET"},
    filters.STRAY: {"content": f"{WORDS} BT /F 24 Tf 275 100 Td (runs right over the edge) Tj ET"},
    filters.OVERPRINTED: {"content": f"{WORDS} BT /F 24 Tf 62 201 Td (Violet vase) Tj ET"},
    filters.TINY: {"content": f"{WORDS} BT /F 1 Tf 60 100 Td (fine print) Tj ET"},
    filters.DUPLICATE: {"content": [WORDS, WORDS]},
}


@pytest.mark.parametrize("reason", DROPPED)
def test_every_reason_to_drop_a_page_is_counted(tmp_path: Path, reason: str) -> None:
    path = write_pdf(tmp_path / "a.pdf", **DROPPED[reason])  # type: ignore[arg-type]
    report = build_ocr([path], tmp_path / "out")
    assert dict(report.dropped) == {reason: 1}
    assert report.pages_seen == report.pages_kept + 1
    assert f"dropped 1: {reason}" in report.summary()
    assert json.loads((tmp_path / "out" / "funnel.json").read_text())["dropped"] == {reason: 1}


@pytest.mark.parametrize("mode", [4, 5, 6, 7])
def test_text_that_others_are_painted_through_drops_the_page(tmp_path: Path, mode: int) -> None:
    """Without its text, the page would show it still."""
    masked = f"q BT {mode} Tr /F 24 Tf 60 100 Td (seen) Tj ET 1 0 0 rg 0 80 300 60 re f Q"
    assert only_page(write_pdf(tmp_path / "a.pdf", f"{WORDS} {masked}")).problems == (filters.MASK,)


@pytest.mark.parametrize("matrix", ["-1 0 0 1 250", "1 0 0 -1 60", "0 1 1 0 60", "0 -1 -1 0 60"])
@pytest.mark.parametrize("rotate", [0, 90])
def test_mirrored_text_drops_the_page(tmp_path: Path, matrix: str, rotate: int) -> None:
    content = f"{WORDS} BT /F 24 Tf {matrix} 120 Tm (lamp) Tj ET"
    page = only_page(write_pdf(tmp_path / "a.pdf", content, page=f"/MediaBox [0 0 300 400] /Rotate {rotate}"))
    assert page.problems == (filters.SLANTED,)


def test_text_of_a_page_drawn_upside_down_and_back_stands_upright(tmp_path: Path) -> None:
    """As many printers write it: the page mirrored, and its letters again; or turned, in a size below zero."""
    plain = only_page(write_pdf(tmp_path / "a.pdf"))
    twice = "q 1 0 0 -1 0 400 cm BT /F 24 Tf 1 0 0 -1 60 200 Tm (Purple lamp) Tj ET Q"
    turned = "BT /F -24 Tf -1 0 0 -1 60 200 Tm (Purple lamp) Tj ET"
    for content in (twice, turned):
        page = only_page(write_pdf(tmp_path / "b.pdf", content))
        assert (page.problems, texts(page)) == ((), ["Purple lamp"])
        assert np.abs(np.array(page.lines[0].corners) - plain.lines[0].corners).max() <= 1


@pytest.mark.parametrize(
    "content",
    [
        lines_of_text([("ab " * 80, 5, 5 + n) for n in range(220)], 1),
        lines_of_text([("ab", 5 + 11 * (n % 26), 5 + 4 * (n // 26)) for n in range(2100)], 4),
    ],
    ids=["characters", "lines"],
)
@pytest.mark.parametrize("mode", ["page", "crop"])
def test_a_page_crammed_with_text_is_dropped_unread(tmp_path: Path, content: str, mode: str) -> None:
    report = build_ocr([write_pdf(tmp_path / "a.pdf", content)], tmp_path / "out", mode=mode)
    assert dict(report.dropped) == {filters.TOO_MANY: 1}


def test_a_page_that_no_crop_fits_is_counted(tmp_path: Path) -> None:
    words = "BT /F 24 Tf 10 200 Td (%s) Tj ET"
    path = write_pdf(tmp_path / "a.pdf", content=[WORDS, words % "Incomprehensibilities"])
    report = build_ocr([path], tmp_path / "out", mode="crop")
    assert dict(report.dropped) == {filters.NO_CROP: 1}
    assert report.pages_seen == report.pages_kept + 1 == 2


def test_encrypted_files_open_with_their_password(tmp_path: Path) -> None:
    locked = write_pdf(tmp_path / "locked.pdf", passwords=("open sesame", "owner"))
    assert texts(only_page(locked, "open sesame")) == ["Purple lamp"]
    with pytest.raises(DataError, match=r"locked\.pdf: encrypted: needs --password"):
        list(read_pdf(locked))
    with pytest.raises(DataError, match=r"locked\.pdf: encrypted: needs another password"):
        list(read_pdf(locked, password="guess"))
    restricted = write_pdf(tmp_path / "restricted.pdf", passwords=("", "owner"))
    assert texts(only_page(restricted)) == ["Purple lamp"], "a password of the owner's alone forbids no reading"


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "empty file"), (b"%PDF-1.4 nothing", "corrupt"), (b"<html>", "corrupt")]
)
def test_a_file_that_is_no_pdf_is_one_clear_error(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "bad.pdf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.pdf: {why}"):
        list(read_pdf(path))


def test_damaged_files_end_in_pages_or_in_one_line_each(tmp_path: Path) -> None:
    """Cut anywhere, or with bytes changed: every file is accounted for, and a whole one beside them is read."""
    whole = write_pdf(tmp_path / "whole.pdf", [WORDS, WORDS.replace("Purple", "Yellow")]).read_bytes()
    random_bytes = random.Random(3)
    for number in range(12):
        (tmp_path / f"cut{number:02d}.pdf").write_bytes(whole[: len(whole) * (number + 1) // 13])
        broken = bytearray(whole)
        for _ in range(30):
            broken[random_bytes.randrange(len(broken))] = random_bytes.randrange(256)
        (tmp_path / f"broken{number:02d}.pdf").write_bytes(broken)
    report = build_ocr([tmp_path], tmp_path / "out", suffixes=[".pdf"])
    assert report.files == 25
    assert report.pages_seen == report.pages_kept + report.dropped.total()
    sources = {sample.provenance["source"] for sample in read_split(tmp_path / "out")}
    assert "whole.pdf" in sources
    assert {failure.split(":")[0] for failure in report.failures} >= {"cut00.pdf", "cut01.pdf"}
