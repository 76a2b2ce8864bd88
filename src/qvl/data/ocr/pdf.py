"""PDF -> pages: the rendered image, and the text lines with their places in it.

Source: paper appendix A.2 (which used PyMuPDF); here pdfium. Positions go through the same page-to-device
matrix as the pixels, so /Rotate, /CropBox and the page's own origin are accounted for. Annotations and form
fields are not drawn: their text is not the page's.
"""

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from qvl.data.language import is_cjk
from qvl.data.ocr.filters import HIDDEN_LAYER, MASK, SLANTED, TOO_MANY, UNDECODABLE
from qvl.data.ocr.ink import seen_atoms
from qvl.data.ocr.lines import join_rows, merge, without_leaders
from qvl.data.ocr.order import reading_order
from qvl.data.ocr.page import Atom, Page, Rect, clean, union
from qvl.errors import DataError, MissingDependencyError

PRECISION = 1024  # pdfium maps to whole device units: ask for this many per pixel
FAR = 1000.0  # page units between the points that the page's mapping to pixels is measured at
# No page that a person reads has more; a small file can hold millions, and the order of lines takes its time.
MOST_CHARS, MOST_LINES = 50_000, 2_000
SLANT = 2.0  # degrees by which text may lean from the axes


def import_pdfium() -> Any:
    """The library. MissingDependencyError says how to install it."""
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingDependencyError("reading PDF files needs pypdfium2: pip install 'qvl[ocr]'") from error
    return pypdfium2


def read_pdf(
    path: Path, max_side: int = 1024, source: str | None = None, password: str | None = None
) -> Iterator[Page | DataError]:
    """The pages of a file in order, the longer side max_side pixels; a DataError in place of a bad page.

    Raises DataError when the file as a whole can't be opened (empty, corrupt, encrypted and no password fits).
    """
    pdfium = import_pdfium()
    name = source or path.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: can't be read ({error.strerror})") from error
    if not content:
        raise DataError(f"{name}: empty file (zero bytes)")
    try:
        document = pdfium.PdfDocument(content, password=password)
    except pdfium.PdfiumError as error:
        locked = "encrypted: needs another password" if password else "encrypted: needs --password"
        why = locked if "assword" in str(error) else f"corrupt ({error})"
        raise DataError(f"{name}: {why}") from error
    try:
        for number in range(len(document)):
            try:
                yield _read_page(pdfium, document[number], max_side, name, number + 1)
            except (pdfium.PdfiumError, ValueError) as error:
                yield DataError(f"{name}: page {number + 1} can't be read ({error})")
    finally:
        document.close()


def _read_page(pdfium: Any, page: Any, max_side: int, source: str, number: int) -> Page:
    width, height = page.get_size()
    if width <= 0 or height <= 0:
        raise pdfium.PdfiumError("no area")
    image = _render(page, max_side)
    textpage = page.get_textpage()
    try:
        reader = _TextReader(pdfium, textpage, _Mapping(pdfium.raw, page, *image.size))
        if (count := textpage.count_chars()) > MOST_CHARS:
            return Page(image, (), source, number, (TOO_MANY,))
        for index in range(count):
            reader.take(index)
        reader.flush()
        for written in page.get_objects(filter=[pdfium.raw.FPDF_PAGEOBJ_TEXT]):
            pdfium.raw.FPDFTextObj_SetTextRenderMode(written.raw, pdfium.raw.FPDF_TEXTRENDERMODE_INVISIBLE)
        seen = seen_atoms(reader.atoms, image, _render(page, max_side), exact=True)
    finally:
        textpage.close()
        page.close()
    lines = join_rows(merge(without_leaders(seen.atoms)))
    if len(lines) > MOST_LINES:
        return Page(image, (), source, number, (TOO_MANY,))
    problems = tuple(dict.fromkeys(reader.problems))
    return Page(image, tuple(reading_order(lines)), source, number, problems, seen.unseen, seen.stray)


def _render(page: Any, max_side: int) -> Image.Image:
    scale = max_side / max(page.get_size())
    picture: Image.Image = page.render(scale=scale, may_draw_forms=False, draw_annots=False).to_pil()
    return picture.convert("RGB")


class _Mapping:
    """Page coordinates -> pixels of the rendered image; fractions of a pixel are kept."""

    def __init__(self, raw: Any, page: Any, width: int, height: int) -> None:
        def device(x: float, y: float) -> tuple[float, float]:
            out_x, out_y = ctypes.c_int(), ctypes.c_int()
            size = (width * PRECISION, height * PRECISION)
            raw.FPDF_PageToDevice(page.raw, 0, 0, *size, 0, x, y, out_x, out_y)
            return (out_x.value / PRECISION, out_y.value / PRECISION)

        self.e, self.f = device(0, 0)
        (xx, xy), (yx, yy) = device(FAR, 0), device(0, FAR)
        self.a, self.b, self.c, self.d = (v / FAR for v in (xx - self.e, xy - self.f, yx - self.e, yy - self.f))

        self.area = self.a * self.d - self.b * self.c  # below 0: pages count upwards, pictures downwards

    def box(self, box: tuple[float, float, float, float]) -> Rect:
        """(left, bottom, right, top) of the page -> a box in pixels."""
        (ax, ay), (bx, by) = (
            (self.a * x + self.c * y + self.e, self.b * x + self.d * y + self.f)
            for x, y in ((box[0], box[1]), (box[2], box[3]))
        )
        return (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))

    def direction(self, x: float, y: float) -> float:
        """A direction on the page -> degrees clockwise from the right in the image."""
        return math.degrees(math.atan2(self.b * x + self.d * y, self.a * x + self.c * y)) % 360


@dataclass
class _TextReader:
    """Collects characters into atoms."""

    pdfium: Any
    textpage: Any
    mapping: _Mapping
    atoms: list[Atom] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _open: list[Atom] = field(default_factory=list)
    _space: bool = True
    _high_surrogate: int = 0

    def take(self, index: int) -> None:
        """Read the character at this index of the text page."""
        text = self._character(index)
        if text is None:
            return
        if text.isspace():
            self.flush()
            self._space = True
            return
        atom = self._atom(index, text)
        if atom is None:
            return
        if self._open and not _adjoins(self._open[-1], atom):
            self.flush()
        if is_cjk(text):
            self.flush()
            self._open.append(atom)
            self.flush()
        else:
            self._open.append(atom)

    def flush(self) -> None:
        """Close the word being read."""
        if not self._open:
            return
        text = clean("".join(a.text for a in self._open))
        if text:
            box, ink = union(a.box for a in self._open), union(a.ink for a in self._open)
            self.atoms.append(Atom(text, box, ink, self._open[0].angle, self._space))
            self._space = False
        self._open = []

    def _character(self, index: int) -> str | None:
        raw, text = self.pdfium.raw, self.textpage.raw
        code = raw.FPDFText_GetUnicode(text, index)
        generated = raw.FPDFText_IsGenerated(text, index) == 1
        if raw.FPDFText_IsHyphen(text, index) == 1 or code in (0x2, 0xFFFE):
            return "-"
        if 0xD800 <= code <= 0xDBFF:
            self._high_surrogate = code
            return None
        if 0xDC00 <= code <= 0xDFFF and self._high_surrogate:
            code = 0x10000 + ((self._high_surrogate - 0xD800) << 10) + (code - 0xDC00)
        self._high_surrogate = 0
        if not generated and (code == 0 or raw.FPDFText_HasUnicodeMapError(text, index) == 1):
            self.problems.append(UNDECODABLE)
            return None
        return chr(code) if code else None

    def _atom(self, index: int, text: str) -> Atom | None:
        raw = self.pdfium.raw
        try:
            loose, tight = (self.textpage.get_charbox(index, loose=loose) for loose in (True, False))
        except self.pdfium.PdfiumError:
            self.problems.append(UNDECODABLE)
            return None
        owner = raw.FPDFText_GetTextObject(self.textpage.raw, index)
        mode = raw.FPDFTextObj_GetTextRenderMode(owner) if owner else raw.FPDF_TEXTRENDERMODE_FILL
        if mode == raw.FPDF_TEXTRENDERMODE_INVISIBLE:
            self.problems.append(HIDDEN_LAYER)
        elif mode >= raw.FPDF_TEXTRENDERMODE_FILL_CLIP:
            self.problems.append(MASK)  # what is painted through it stays in the picture without text
        x0, y0, x1, y1 = self.mapping.box(tight)
        return Atom(text, self.mapping.box(loose), (x0 - 1, y0 - 1, x1 + 1, y1 + 1), self._angle(index))

    def _angle(self, index: int) -> int:
        raw = self.pdfium.raw
        matrix = raw.FS_MATRIX()
        if not raw.FPDFText_GetMatrix(self.textpage.raw, index, matrix):
            return 0
        over = 180 if raw.FPDFText_GetFontSize(self.textpage.raw, index) < 0 else 0  # not in the matrix
        degrees = self.mapping.direction(matrix.a, matrix.b)
        nearest = round(degrees / 90) * 90
        mirrored = (matrix.a * matrix.d - matrix.b * matrix.c) * self.mapping.area > 0
        if abs(degrees - nearest) > SLANT or mirrored:
            self.problems.append(SLANTED)
        return (nearest + over) % 360


def _adjoins(last: Atom, atom: Atom) -> bool:
    """Whether two characters without a space between them belong to one word: close, and side by side."""
    if last.angle != atom.angle:
        return False
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = last.box, atom.box
    reach = 0.4 * max(min(ax1 - ax0, ay1 - ay0), min(bx1 - bx0, by1 - by0), 1.0) + 2.0
    across = min(ax1, bx1) - max(ax0, bx0), min(ay1, by1) - max(ay0, by0)
    along, side = across if atom.angle in (0, 180) else across[::-1]
    return along >= -reach and side > 0
