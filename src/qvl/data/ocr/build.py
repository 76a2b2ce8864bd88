"""Folders of PDF and HTML files -> shards of OCR samples and a report that accounts for every page.

Source: paper appendix A.2. The same inputs, settings, fonts and library versions give the same shards.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from qvl.data.ocr.crops import CropSettings, crops
from qvl.data.ocr.filters import DUPLICATE, NO_CROP, PageFilter, page_problem
from qvl.data.ocr.html import Browser, is_url
from qvl.data.ocr.page import Page
from qvl.data.ocr.pdf import read_pdf
from qvl.data.ocr.samples import page_sample
from qvl.data.sample import Sample, write_shard
from qvl.errors import DataError, UsageError

PDF, HTML = (".pdf",), (".html", ".htm", ".xhtml")
MODES = ("page", "crop")


@dataclass
class OcrReport:
    """What became of every file and page. pages_seen == pages_kept + the sum of dropped."""

    files: int = 0
    pages_seen: int = 0
    pages_kept: int = 0
    samples: int = 0
    shards: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    blocked_requests: int = 0

    def summary(self) -> str:
        """For the terminal: one line per fact."""
        spoken = ", ".join(f"{name} {count}" for name, count in sorted(self.languages.items()))
        rows = [
            f"{self.files} files, {self.pages_seen} pages: {self.pages_kept} kept, {self.dropped.total()} dropped",
            f"{self.samples} samples in {self.shards} shards" + (f" ({spoken})" if spoken else ""),
        ]
        rows += [f"  dropped {count}: {reason}" for reason, count in self.dropped.most_common()]
        rows += [f"  failed: {why}" for why in self.failures.values()]
        if self.blocked_requests:
            rows.append(f"  {self.blocked_requests} requests of HTML files refused (outside their folder, or network)")
        return "\n".join(rows)


def bundled_documents() -> list[Path]:
    """The HTML pages that come with qvl: something to read on a fresh machine."""
    folder = Path(str(resources.files("qvl.assets") / "documents"))
    return sorted(folder.glob("*.html"))


def build_ocr(
    inputs: Sequence[str | Path],
    output_dir: Path,
    *,
    mode: str = "page",
    max_side: int = 1024,
    limits: PageFilter | None = None,
    crop: CropSettings | None = None,
    seed: int = 0,
    shard_size: int = 1024,
    allow_network: bool = False,
    overwrite: bool = False,
) -> OcrReport:
    """Read files, folders (recursively) and, where allowed, addresses; write shards into output_dir.

    mode "page": one sample per page, with limits on its characters; "crop": many small samples per page.
    A file that can't be read is counted and named in the report; the rest goes on.
    """
    _check(mode, max_side, shard_size)
    limits = limits or PageFilter(max_chars=None if mode == "crop" else PageFilter.max_chars)
    sources = find_sources(inputs)
    _prepare(output_dir, overwrite)
    report = OcrReport(files=len(sources))
    cut: Callable[[Page], list[Sample]] = lambda page: [page_sample(page)]  # noqa: E731
    if mode == "crop":
        chosen = crop or CropSettings()
        cut = lambda page: crops(page, random.Random(f"{seed}/{page.source}/{page.number}"), chosen)  # noqa: E731
    with ExitStack() as stack:
        reader = _Reader(stack, report, max_side, allow_network)
        pages = (page for source, name in sources for page in reader.pages(source, name))
        _write(_samples(pages, cut, limits, report), output_dir, shard_size, report)
        report.blocked_requests = reader.blocked
    return report


def find_sources(inputs: Sequence[str | Path]) -> list[tuple[str | Path, str]]:
    """(file or address, name in reports) for every input, folders searched and sorted, each file once."""
    found: dict[str, tuple[str | Path, str]] = {}
    for given in inputs:
        if is_url(given):
            found.setdefault(str(given), (given, str(given)))
            continue
        root = Path(given)
        if not root.exists():
            raise UsageError(f"{root}: no such file or folder")
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for path in files:
            if path.suffix.lower() in PDF + HTML:
                name = path.name if root.is_file() else path.relative_to(root).as_posix()
                found.setdefault(str(path.resolve()), (path, name))
            elif root.is_file():
                raise UsageError(f"{path}: neither PDF nor HTML; give {', '.join(PDF + HTML)} or a folder of them")
    if not found:
        raise UsageError(f"{', '.join(map(str, inputs)) or 'no input'}: no {', '.join(PDF + HTML)} file found")
    return list(found.values())


def _check(mode: str, max_side: int, shard_size: int) -> None:
    if mode not in MODES:
        raise UsageError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    if not 64 <= max_side <= 8192:
        raise UsageError(f"max_side {max_side} is outside 64..8192 pixels")
    if shard_size < 1:
        raise UsageError(f"shard_size {shard_size} is not positive")


def _prepare(output_dir: Path, overwrite: bool) -> None:
    old = sorted(output_dir.glob("*.parquet")) if output_dir.is_dir() else []
    if old and not overwrite:
        raise UsageError(f"{output_dir}: already holds {len(old)} shards; choose another folder or overwrite them")
    for path in old:
        path.unlink()


@dataclass
class _Reader:
    """Pages of any source; starts the browser when the first HTML file comes."""

    stack: ExitStack
    report: OcrReport
    max_side: int
    allow_network: bool
    browser: Browser | None = None

    @property
    def blocked(self) -> int:
        return len(self.browser.blocked) if self.browser else 0

    def pages(self, source: str | Path, name: str) -> Iterator[Page]:
        """The readable pages; what can't be read goes into the report."""
        try:
            for page in self._read(source, name):
                if isinstance(page, DataError):
                    self._fail(name, page)
                else:
                    yield page
        except DataError as error:
            self._fail(name, error)

    def _fail(self, name: str, error: DataError) -> None:
        key = name
        while key in self.report.failures:
            key += "+"
        self.report.failures[key] = str(error)

    def _read(self, source: str | Path, name: str) -> Iterator[Page | DataError]:
        if not is_url(source) and Path(source).suffix.lower() in PDF:
            return read_pdf(Path(source), self.max_side, name)
        if is_url(source) and not self.allow_network:
            raise UsageError(f"{source}: addresses are read only with --allow-network")
        if self.browser is None:
            self.browser = self.stack.enter_context(Browser(self.allow_network, width=self.max_side))
        return self.browser.pages(source, self.max_side, name)


def _samples(
    pages: Iterator[Page], cut: Callable[[Page], list[Sample]], limits: PageFilter, report: OcrReport
) -> Iterator[Sample]:
    """Samples of the pages that pass, each image once."""
    known: set[str] = set()
    for page in pages:
        report.pages_seen += 1
        if reason := page_problem(page, limits):
            report.dropped[reason] += 1
            continue
        made = cut(page)
        fresh = [s for s in {s.id: s for s in made}.values() if s.id not in known]
        if not fresh:
            report.dropped[DUPLICATE if made else NO_CROP] += 1
            continue
        report.pages_kept += 1
        known.update(s.id for s in fresh)
        yield from fresh


def _write(samples: Iterator[Sample], output_dir: Path, shard_size: int, report: OcrReport) -> None:
    shard: list[Sample] = []

    def flush() -> None:
        if shard:
            write_shard(shard, output_dir / f"ocr-{report.shards:05d}.parquet")
            report.shards += 1
            shard.clear()

    for sample in samples:
        report.samples += 1
        report.languages[sample.language] += 1
        shard.append(sample)
        if len(shard) == shard_size:
            flush()
    flush()
