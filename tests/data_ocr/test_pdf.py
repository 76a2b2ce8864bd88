"""PDF pages made by hand: rotation, crop boxes, hidden and leaning text, against the rendered pixels."""

from pathlib import Path

import numpy as np
import pytest

from qvl.data.ocr.filters import HIDDEN_LAYER, SLANTED
from qvl.data.ocr.page import Page
from qvl.data.ocr.pdf import read_pdf
from qvl.errors import DataError

WORDS = "BT /F 24 Tf 60 200 Td (Purple lamp) Tj ET"


def write_pdf(path: Path, content: str = WORDS, page: str = "/MediaBox [0 0 300 400]") -> Path:
    """One page with Helvetica as /F."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R {page} /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "0000000000 65535 f \n" + "".join(f"{place:010d} 00000 n \n" for place in places)
    out += f"xref\n0 6\n{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n".encode()
    path.write_bytes(out)
    return path


def only_page(path: Path) -> Page:
    [page] = read_pdf(path, max_side=800)
    assert isinstance(page, Page)
    return page


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


def test_text_that_the_page_does_not_show_is_a_problem(tmp_path: Path) -> None:
    hidden = WORDS + " BT 3 Tr /F 12 Tf 60 100 Td (scanner text) Tj ET"
    assert HIDDEN_LAYER in only_page(write_pdf(tmp_path / "a.pdf", hidden)).problems
    slanted = WORDS + " BT /F 24 Tf 0.9 0.4 -0.4 0.9 60 100 Tm (leaning) Tj ET"
    assert SLANTED in only_page(write_pdf(tmp_path / "b.pdf", slanted)).problems


def test_covered_and_white_text_is_no_label(tmp_path: Path) -> None:
    covered = "BT /F 24 Tf 60 100 Td (covered) Tj ET 1 g 50 80 200 60 re f BT /F 24 Tf 60 300 Td (white) Tj ET 0 g "
    page = only_page(write_pdf(tmp_path / "a.pdf", covered + WORDS))
    assert [line.text for line in page.lines] == ["Purple lamp"]


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "empty file"), (b"%PDF-1.4 nothing", "corrupt"), (b"<html>", "corrupt")]
)
def test_a_file_that_is_no_pdf_is_one_clear_error(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "bad.pdf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.pdf: {why}"):
        list(read_pdf(path))
