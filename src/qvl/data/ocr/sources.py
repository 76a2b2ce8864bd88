"""What the user names -> the documents to read, and their pages."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from qvl.data.ocr.html import Browser, HtmlSettings, is_url
from qvl.data.ocr.page import Page
from qvl.data.ocr.pdf import import_pdfium, read_pdf
from qvl.data.raw import told_apart
from qvl.errors import DataError, UsageError

PDF, HTML = (".pdf",), (".html", ".htm", ".xhtml")
Source = tuple[str | Path, str]  # a file or an address, and its name in reports


def find_sources(inputs: Sequence[str | Path], suffixes: Sequence[str]) -> list[Source]:
    """Every document of the inputs with one of the suffixes, folders searched and sorted, each file once.

    Addresses count as HTML. UsageError when nothing is there, or a file is named that is of another kind.
    """
    wanted = ", ".join(suffixes)
    found: dict[str, Source] = {}
    for given in inputs:
        if is_url(given) and ".html" in suffixes:
            found.setdefault(str(given), (given, str(given)))
            continue
        root = Path(given)
        if not root.exists():
            raise UsageError(f"{root}: no such file or folder")
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        for path in files:
            if path.suffix.lower() in suffixes:
                name = path.name if root.is_file() else path.relative_to(root).as_posix()
                found.setdefault(str(path.resolve()), (path, name))
            elif root.is_file():
                raise UsageError(f"{path}: not a file that is read here; give {wanted} or a folder of them")
    if not found:
        raise UsageError(f"{', '.join(map(str, inputs)) or 'no input'}: no {wanted} file found")
    names = told_apart({Path(key): name for key, (_, name) in found.items()})
    return [(source, names[Path(key)]) for key, (source, _) in found.items()]


class Reader:
    """Pages of documents of either kind; a browser runs only when one of them needs it."""

    def __init__(
        self, sources: Sequence[Source], max_side: int, zoom: int, html: HtmlSettings, password: str | None
    ) -> None:
        """max_side: of a page, zoom: how many times larger than that it is rendered, password: of PDF files."""
        if not html.allow_network and (urls := [name for source, name in sources if is_url(source)]):
            raise UsageError(f"{urls[0]}: addresses are read only with --allow-network")
        if any(_is_pdf(source) for source, _ in sources):
            import_pdfium()  # missing? said before anything is written
        self._sources, self._max_side, self._zoom, self._password = sources, max_side, zoom, password
        self._stack = ExitStack()
        needed = not all(_is_pdf(source) for source, _ in sources)
        self._browser = self._stack.enter_context(Browser(html, max_side, zoom)) if needed else None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def blocked_requests(self) -> int:
        """Requests of HTML files that were refused."""
        return self._browser.blocked if self._browser else 0

    def pages(self) -> Iterator[Page | DataError]:
        """The pages of every document in order, a DataError in the place of what can't be read."""
        for source, name in self._sources:
            try:
                yield from self._read(source, name)
            except DataError as error:
                yield error

    def _read(self, source: str | Path, name: str) -> Iterator[Page | DataError]:
        if self._browser is None or _is_pdf(source):
            return read_pdf(Path(source), self._max_side * self._zoom, name, self._password)
        return self._browser.pages(source, self._max_side, name)


def _is_pdf(source: str | Path) -> bool:
    return not is_url(source) and Path(source).suffix.lower() in PDF
