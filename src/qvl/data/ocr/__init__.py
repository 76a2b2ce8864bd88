"""OCR samples from PDF and HTML documents."""

from qvl.data.ocr.build import OcrReport, build_ocr, bundled_documents
from qvl.data.ocr.crops import CropSettings, crops
from qvl.data.ocr.cut import SequenceLimit
from qvl.data.ocr.filters import PageFilter
from qvl.data.ocr.html import HtmlSettings

__all__ = [
    "CropSettings",
    "HtmlSettings",
    "OcrReport",
    "PageFilter",
    "SequenceLimit",
    "build_ocr",
    "bundled_documents",
    "crops",
]
