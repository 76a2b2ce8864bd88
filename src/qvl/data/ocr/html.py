"""HTML -> pages: what a real browser shows, and where each visible word is.

Source: paper appendix A.2 (which used Puppeteer); here Playwright drives the system's Chromium. Scripts are
off and nothing is fetched: a page may load files below its own folder and no more, unless the caller allows
the network. Long pages are cut into screens between lines.
"""

import io
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from PIL import Image

from qvl.data.ocr.filters import SLANTED
from qvl.data.ocr.page import Atom, Page, clean, finish
from qvl.errors import DataError, MissingDependencyError, UsageError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAX_HEIGHT = 16_000  # pixels of a rendered document that are read; Chromium's own screenshots end at 16,384
TIMEOUT_MS = 30_000
# Still, in one piece, and without what is text to the eye only: list markers, generated text, form fields.
STYLE = """* { hyphens: none !important; animation: none !important; transition: none !important;
  pointer-events: auto !important; caret-color: transparent !important; scrollbar-width: none !important }
  *::marker, *::before, *::after { color: transparent !important }
  input, select, textarea { visibility: hidden !important }"""

# Not the browser driver's own call for it: with the page's scripts off that one never returns.
_ADD_STYLE = """css => { const style = document.createElement("style"); style.textContent = css;
  document.documentElement.append(style); }"""
FONT_CHECKS, FONT_PAUSE_MS = 40, 50

logger = logging.getLogger(__name__)


def is_url(source: str | Path) -> bool:
    """Whether the input is an address rather than a file."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def find_browser() -> str:
    """The system's Chromium. MissingDependencyError says how to install it."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise MissingDependencyError(
        f"rendering HTML needs Chromium, and none of {', '.join(BROWSERS)} is on PATH: "
        "`apt install chromium` (Debian), `brew install --cask chromium` (macOS)"
    )


def _playwright() -> Any:
    try:
        from playwright import sync_api
    except ImportError as error:
        raise MissingDependencyError("rendering HTML needs playwright: pip install 'qvl[ocr]'") from error
    return sync_api


class Browser:
    """One Chromium for many pages; a context manager."""

    def __init__(self, allow_network: bool = False, width: int = 1024, zoom: int = 1) -> None:
        """width: of the window in CSS pixels, zoom: image pixels in each of them."""
        self.allow_network = allow_network
        self.width = width
        self.zoom = zoom
        self.blocked: list[str] = []
        self._api = _playwright()
        executable = find_browser()
        self._driver = self._api.sync_playwright().start()
        try:
            self._browser = self._launch(executable)
        except BaseException:
            self._driver.stop()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.close()
        self._driver.stop()

    def _launch(self, executable: str) -> Any:
        """With Chromium's sandbox where it works: never for root, and not in every container."""
        options = {"executable_path": executable, "args": ["--disable-background-networking"]}
        if os.geteuid() != 0:
            try:
                return self._driver.chromium.launch(chromium_sandbox=True, **options)
            except self._api.Error:
                logger.warning("Chromium's sandbox does not start here: going on without it (scripts are off)")
        options["args"] = [*options["args"], "--no-sandbox"]
        try:
            return self._driver.chromium.launch(**options)
        except self._api.Error as error:
            reason = str(error).splitlines()[0]
            raise MissingDependencyError(f"{executable} does not start ({reason}): reinstall it") from error

    def pages(self, source: str | Path, max_side: int = 1024, name: str | None = None) -> Iterator[Page | DataError]:
        """The document cut into screens of at most max_side CSS pixels' height.

        Raises DataError when it can't load; one comes at the end when the document goes on below MAX_HEIGHT.
        """
        label = name or str(source)
        with self._open(source, label) as tab:
            full, height, found, shot = self._look(tab, label)
        problems = (SLANTED,) if found["slanted"] else ()
        atoms = [a for a in (_atom(item, self.zoom) for item in found["atoms"]) if a is not None]
        for number, (top, bottom) in enumerate(screens(atoms, shot.height, max_side * self.zoom), start=1):
            inside = [_shift(a, top) for a in atoms if top <= a.box[1] and a.box[3] <= bottom]
            yield finish(shot.crop((0, top, shot.width, bottom)), inside, label, number, problems)
        if full > height:
            yield DataError(f"{label}: only the upper {height} of {full} pixels are read; cut the document in parts")

    def _look(self, tab: Any, label: str) -> tuple[int, int, dict[str, Any], Image.Image]:
        """(height of the document, height that is read, what the script found, the picture of it)."""
        try:
            full = max(int(tab.evaluate("document.documentElement.scrollHeight")), 1)
            height = min(full, MAX_HEIGHT // self.zoom)
            tab.set_viewport_size({"width": self.width, "height": height})
            found = tab.evaluate(_script())
            shot = tab.screenshot(animations="disabled")
        except self._api.Error as error:
            raise DataError(f"{label}: can't be rendered ({str(error).splitlines()[0]})") from error
        return full, height, found, Image.open(io.BytesIO(shot)).convert("RGB")

    def _open(self, source: str | Path, label: str) -> "_Tab":
        if is_url(source) and not self.allow_network:
            raise UsageError(f"{source}: addresses are read only with --allow-network")
        if not is_url(source):
            _check_file(Path(source), label)
        tab = _Tab(self._context(source))
        address = str(source) if is_url(source) else Path(source).resolve().as_uri()
        try:
            tab.page.goto(address, wait_until="load", timeout=TIMEOUT_MS)
            tab.page.evaluate(_ADD_STYLE, STYLE)
            _wait_for_fonts(tab.page)
        except self._api.Error as error:
            tab.close()
            raise DataError(f"{label}: does not load ({str(error).splitlines()[0]})") from error
        return tab

    def _context(self, source: str | Path) -> Any:
        context = self._browser.new_context(
            viewport={"width": self.width, "height": 768},
            device_scale_factor=self.zoom,
            java_script_enabled=False,
            bypass_csp=True,
            accept_downloads=False,
            service_workers="block",
            locale="en-US",
            offline=not self.allow_network,
        )
        folder = None if is_url(source) else Path(source).resolve().parent

        def decide(route: Any) -> None:
            if self._allowed(route.request.url, folder):
                route.continue_()
            else:
                self.blocked.append(route.request.url)
                route.abort("blockedbyclient")

        context.route("**/*", decide)
        return context

    def _allowed(self, address: str, folder: Path | None) -> bool:
        """Files below the document's own folder; http(s) only where the network is allowed."""
        parts = urlsplit(address)
        if parts.scheme in ("http", "https"):
            return self.allow_network
        if parts.scheme == "file" and not parts.netloc and folder is not None:
            return Path(unquote(parts.path)).resolve().is_relative_to(folder)
        return parts.scheme in ("data", "about")


class _Tab:
    """A page that takes its context with it when it closes."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.page = context.new_page()

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the page and its context."""
        self.context.close()


def _wait_for_fonts(page: Any) -> None:
    """Until the page's own fonts are there, two seconds at most: text moves when they come."""
    for _ in range(FONT_CHECKS):
        if page.evaluate("document.fonts.status") == "loaded":
            return
        page.wait_for_timeout(FONT_PAUSE_MS)


def _check_file(path: Path, label: str) -> None:
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise DataError(f"{label}: can't be read ({error.strerror})") from error
    if empty:
        raise DataError(f"{label}: empty file (zero bytes)")


def _script() -> str:
    return resources.files("qvl.data.ocr").joinpath("visible_text.js").read_text(encoding="utf-8")


def _atom(item: dict[str, Any], zoom: int) -> Atom | None:
    text = clean(item["text"])
    if not text:
        return None
    x, y, width, height = (zoom * value for value in item["rect"])
    box = (x, y, x + width, y + height)
    return Atom(text, box, box, 0, bool(item["space"]))


def _shift(atom: Atom, top: int) -> Atom:
    x0, y0, x1, y1 = atom.box
    box = (x0, y0 - top, x1, y1 - top)
    return Atom(atom.text, box, box, atom.angle, atom.space_before)


def screens(atoms: Sequence[Atom], height: int, max_side: int) -> list[tuple[int, int]]:
    """(top, bottom) of each screen: as tall as allowed, ending above whatever text would be cut."""
    spans = sorted((int(a.box[1]), int(a.box[3]) + 1) for a in atoms)
    out: list[tuple[int, int]] = []
    top = 0
    while top < height:
        bottom = min(top + max_side, height)
        if bottom < height:
            bottom = _above_text(spans, top, bottom)
        out.append((top, bottom))
        top = bottom
    return out


def _above_text(spans: Sequence[tuple[int, int]], top: int, bottom: int) -> int:
    """The lowest cut not below bottom that crosses no text; bottom itself when there is none in reach."""
    cut = bottom
    while crossing := [start for start, end in spans if start < cut < end]:
        cut = min(crossing)
        if cut <= top + (bottom - top) // 2:
            return bottom
    return cut
