"""OCR samples from PDF and HTML documents."""

from qvl.data.ocr.build import OcrReport, build_ocr, bundled_documents
from qvl.data.ocr.crops import CropSettings, crops
from qvl.data.ocr.filters import PageFilter

__all__ = ["CropSettings", "OcrReport", "PageFilter", "build_ocr", "bundled_documents", "crops"]
