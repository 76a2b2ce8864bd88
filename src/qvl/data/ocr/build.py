"""PDF and HTML documents -> shards of OCR samples, and a report that accounts for every page.

Source: paper appendix A.2. The same inputs, settings, fonts and library versions give the same shards.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path

from qvl.data.ocr.crops import ZOOM, CropSettings, crops
from qvl.data.ocr.cut import SequenceLimit, parts
from qvl.data.ocr.filters import DUPLICATE, NO_CROP, NO_CUT, PageFilter, page_problem
from qvl.data.ocr.html import HtmlSettings
from qvl.data.ocr.page import Page
from qvl.data.ocr.samples import page_sample
from qvl.data.ocr.sources import HTML, PDF, Reader, find_sources
from qvl.data.sample import Sample, replacing_split, write_split
from qvl.errors import DataError, UsageError
from qvl.files import write_text

MODES = ("page", "crop")
FUNNEL_NAME = "funnel.json"
UNSEEN = "word that the picture does not show"
UNCUT = "word that no crop shows"
TOO_LONG = "line that no sequence holds"
SPELLED_OUT = 20  # failures that a summary names; funnel.json has all

Cutter = Callable[[Page], tuple[list[Sample], str]]  # a page -> its samples, and why there are none if so


@dataclass
class OcrReport:
    """What became of every document and page. pages_seen == pages_kept + the sum of dropped.

    left_out counts what kept pages lost: words that the picture does not show, or that no crop does, lines that no
    sequence holds, parts or crops that look like one before.
    """

    files: int = 0
    pages_seen: int = 0
    pages_kept: int = 0
    samples: int = 0
    shards: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    blocked_requests: int = 0
    reached_max_samples: bool = False

    def summary(self) -> str:
        """For the terminal: one line per fact."""
        spoken = ", ".join(f"{name} {count}" for name, count in sorted(self.languages.items()))
        rows = [
            f"{self.files} files, {self.pages_seen} pages: {self.pages_kept} kept, {self.dropped.total()} dropped",
            f"{self.samples} samples in {self.shards} shards" + (f" ({spoken})" if spoken else ""),
        ]
        rows += [f"  dropped {count}: {reason}" for reason, count in self.dropped.most_common()]
        rows += [f"  left out of kept pages {count}: {what}" for what, count in self.left_out.most_common() if count]
        rows += [f"  {len(self.failures)} documents or pages failed"] if self.failures else []
        rows += [f"  failed: {why}" for why in self.failures[:SPELLED_OUT]]
        if self.blocked_requests:
            rows.append(f"  {self.blocked_requests} requests of HTML files refused (outside their folder, or network)")
        if self.reached_max_samples:
            rows.append(f"  stopped at {self.samples} samples as asked: what comes after them was not read")
        return "\n".join(rows)


def bundled_documents() -> list[Path]:
    """The HTML pages that come with qvl: something to read on a fresh machine."""
    folder = Path(str(resources.files("qvl.assets") / "documents"))
    return sorted(folder.glob("*.html"))


def build_ocr(
    inputs: Sequence[str | Path],
    output_dir: Path,
    *,
    suffixes: Sequence[str] = PDF + HTML,
    mode: str = "page",
    max_side: int = 1024,
    limits: PageFilter | None = None,
    sequence: SequenceLimit | None = None,
    crop: CropSettings | None = None,
    seed: int = 0,
    max_samples: int | None = None,
    html: HtmlSettings | None = None,
    password: str | None = None,
    overwrite: bool = False,
) -> OcrReport:
    """Read files, folders (recursively) and, where allowed, addresses; write shards and funnel.json to output_dir.

    mode "page": one sample per page of at most max_side pixels, cut where it is longer than `sequence` (None: never),
    with limits on its characters; "crop": many small samples per page. suffixes: the kinds of files to read. A
    document that can't be read is counted and named in the report; the rest goes on.
    Raises UsageError for inputs that don't fit, MissingDependencyError where a reader is not installed.
    """
    _check(mode, max_side, max_samples)
    limits = limits or PageFilter(max_chars=None if mode == "crop" else PageFilter.max_chars)
    sources = find_sources(inputs, suffixes)
    report = OcrReport(files=len(sources))
    cut = _crops(crop or CropSettings(), seed, report) if mode == "crop" else _parts(sequence, report)
    zoom = ZOOM if mode == "crop" else 1
    with (
        replacing_split(output_dir, overwrite) as folder,
        Reader(sources, max_side, zoom, html or HtmlSettings(), password) as reader,
    ):
        samples = _samples(_readable(reader, report), cut, limits, report)
        report.shards = write_split(_counted(islice(samples, max_samples), report), folder, "ocr")
        report.reached_max_samples = report.samples == max_samples
        report.blocked_requests = reader.blocked_requests
        write_text(folder / FUNNEL_NAME, json.dumps(vars(report), indent=2, ensure_ascii=False) + "\n")
    return report


def _check(mode: str, max_side: int, max_samples: int | None) -> None:
    if mode not in MODES:
        raise UsageError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    if not 64 <= max_side <= 4096:
        raise UsageError(f"max_side {max_side} is outside 64..4096 pixels")
    if max_samples is not None and max_samples < 1:
        raise UsageError(f"max_samples {max_samples} is not positive")


def _crops(settings: CropSettings, seed: int, report: OcrReport) -> Cutter:
    def cut(page: Page) -> tuple[list[Sample], str]:
        made, lost = crops(page, random.Random(f"{seed}/{page.source}/{page.number}"), settings)
        report.left_out[UNCUT] += lost if made else 0
        return made, NO_CROP

    return cut


def _parts(sequence: SequenceLimit | None, report: OcrReport) -> Cutter:
    def cut(page: Page) -> tuple[list[Sample], str]:
        if sequence is None:
            return [page_sample(page)], ""
        pieces, lost = parts(page, sequence)
        report.left_out[TOO_LONG] += len(lost) if pieces else 0
        return [page_sample(piece) for piece in pieces], NO_CUT

    return cut


def _readable(reader: Reader, report: OcrReport) -> Iterator[Page]:
    for page in reader.pages():
        if isinstance(page, DataError):
            report.failures.append(str(page))
        else:
            report.pages_seen += 1
            yield page


def _samples(pages: Iterator[Page], cut: Cutter, limits: PageFilter, report: OcrReport) -> Iterator[Sample]:
    """Samples of the pages that pass, each image once."""
    known: set[str] = set()
    for page in pages:
        if reason := page_problem(page, limits):
            report.dropped[reason] += 1
            continue
        made, why_none = cut(page)
        fresh = [s for s in {s.id: s for s in made}.values() if s.id not in known]
        if not fresh:
            report.dropped[DUPLICATE if made else why_none] += 1
            continue
        report.pages_kept += 1
        report.left_out[UNSEEN] += page.unseen
        report.left_out[DUPLICATE] += len(made) - len(fresh)
        known.update(s.id for s in fresh)
        yield from fresh


def _counted(samples: Iterator[Sample], report: OcrReport) -> Iterator[Sample]:
    for sample in samples:
        report.samples += 1
        report.languages[sample.language] += 1
        yield sample
