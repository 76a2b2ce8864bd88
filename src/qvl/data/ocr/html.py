"""HTML -> pages: what a real browser shows, and where each visible word is.

Source: paper appendix A.2 (which used Puppeteer); here Playwright drives the system's Chromium. Scripts are off
and nothing is fetched: a page may load files below its own folder and no more, unless the caller allows scripts
or the network. Every step ends at a time limit, also when a script never ends. Long documents are looked at through
one window after another, and cut into screens between lines; lines come in document order, which is the order that a
browser reads aloud.
"""

import asyncio
import io
import logging
import os
import shutil
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

from PIL import Image

from qvl.data.ocr.filters import RIGHT_TO_LEFT, SLANTED
from qvl.data.ocr.ink import seen_atoms
from qvl.data.ocr.lines import merge, without_leaders
from qvl.data.ocr.page import Atom, Page, clean, shifted
from qvl.errors import DataError, MissingDependencyError, UsageError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOW = 16_000  # pixels of a document that are looked at together; Chromium's own screenshots end at 16,384
MAX_HEIGHT = 640_000  # pixels of a document that are read
# Pictures stand still, also those that have several frames.
SWITCHES = ("--disable-background-networking", "--blink-settings=imageAnimationPolicy=2")
# What asks no route: names looked up ahead, web sockets of workers, calls between browsers.
OFFLINE_SWITCHES = (
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)
SCREENSHOT_ATTEMPTS, SCREENSHOT_WAIT_S = 4, 0.25
CLOSING_S = 5.0  # seconds that a document may take to close before the browser starts anew
# Still, in one piece, and without what is text to the eye only: list markers, generated text, form fields, the
# names of images that are not there, documents within the document, letters made of a shadow or a background.
STYLE = """* { hyphens: none !important; animation: none !important; transition: none !important;
  pointer-events: auto !important; caret-color: transparent !important; scrollbar-width: none !important;
  text-overflow: clip !important; scroll-behavior: auto !important; scroll-snap-type: none !important;
  text-shadow: none !important; background-clip: border-box !important }
  *::marker, *::before, *::after, img { color: transparent !important }
  input, select, textarea, iframe, frame, object, embed, video, marquee { visibility: hidden !important }"""
# The same picture without its text.
BARE_STYLE = """* { -webkit-text-fill-color: transparent !important; -webkit-text-stroke-color: transparent !important }
  svg text, svg text * { fill: transparent !important; stroke: transparent !important }"""

# Not the browser driver's own call for it: with the page's scripts off that one never returns.
_ADD_STYLE = """css => { const style = document.createElement("style"); style.textContent = css;
  document.documentElement.append(style); }"""
_HEIGHT = "Math.max(document.documentElement.scrollHeight, 1)"
# By the prototype's function where it can: the page's own scripts may have put another in the window's place.
_SCROLL = """top => { const root = document.scrollingElement;
  if (root) Element.prototype.scrollTo.call(root, 0, top); else scrollTo(0, top);
  return scrollY; }"""
FONT_CHECKS, FONT_PAUSE_MS = 40, 50

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HtmlSettings:
    """What documents may do: use the network, run scripts, and take so many seconds to open or for each window."""

    allow_network: bool = False
    scripts: bool = False
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout < float("inf"):
            raise UsageError(f"timeout {self.timeout}: give seconds above 0")


@dataclass(frozen=True)
class _Shot:
    """What a window shows: the document's height and where the window stands in it, in CSS pixels; the text that the
    script found; the window's picture, with its text and without."""

    full: int
    top: float
    found: dict[str, Any]
    picture: Image.Image
    bare: Image.Image


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
        from playwright import async_api
    except ImportError as error:
        raise MissingDependencyError("rendering HTML needs playwright: pip install 'qvl[ocr]'") from error
    return async_api


class Browser:
    """One Chromium for many documents; a context manager."""

    def __init__(self, settings: HtmlSettings | None = None, width: int = 1024, zoom: int = 1) -> None:
        """width: of the window in CSS pixels, zoom: image pixels in each of them."""
        self.settings = settings or HtmlSettings()
        self.width = width
        self.zoom = zoom
        self.blocked = 0  # requests that were refused
        self._api = _playwright()
        self._executable = find_browser()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # answers that come after their document was closed
        try:
            self._driver = self._wait(self._api.async_playwright().start())
            try:
                self._browser: Any = self._wait(self._launch())
            except BaseException:
                self._wait(self._driver.stop())
                raise
        except BaseException:
            self._loop.close()
            raise

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._browser is not None:
                self._wait(self._close(self._browser))
            self._wait(self._driver.stop())
        finally:
            self._loop.close()

    def pages(self, source: str | Path, max_side: int = 1024, name: str | None = None) -> Iterator[Page | DataError]:
        """The document cut into screens of at most max_side CSS pixels' height.

        Raises DataError when it can't be opened or looked at in time (the screens before that are given); one comes
        at the end when the document goes on below MAX_HEIGHT.
        """
        label = name or str(source)
        if is_url(source) and not self.settings.allow_network:
            raise UsageError(f"{source}: addresses are read only with --allow-network")
        if not is_url(source):
            _check_file(Path(source), label)
        context = self._wait(self._fresh_context(source, label))
        try:
            page = self._wait(self._in_time(self._open(context, source), label))
            number, top, full = 0, 0.0, 1
            while top < min(full, MAX_HEIGHT):
                shot = self._wait(self._in_time(self._look(page, top), label))
                full = shot.full
                lowest = max(full - shot.picture.height / self.zoom, 0)
                if abs(shot.top - min(top, lowest)) > 1:
                    raise DataError(f"{label}: does not scroll to pixel {top:g} of {full}; what follows is not read")
                for seen in self._screens(shot, top, max_side, label):
                    number += 1
                    top += seen.image.height / self.zoom
                    yield replace(seen, number=number)
        finally:
            if not self._loop.is_closed():  # it is where the reader stopped early and the browser is gone
                self._wait(self._leave(context))
        if full > MAX_HEIGHT:
            yield DataError(
                f"{label}: only the upper {MAX_HEIGHT} of {full} pixels are read; cut the document in parts"
            )

    def _screens(self, shot: _Shot, top: float, max_side: int, label: str) -> Iterator[Page]:
        """What a window shows from `top` on; where the document goes on below it, without the last, cut-off screen."""
        skip = round((top - shot.top) * self.zoom)  # at the document's end a window shows some of what was before
        width, height = shot.picture.width, shot.picture.height - skip
        found = (_atom(item, self.zoom) for item in shot.found["atoms"])
        atoms = [shifted(atom, 0, skip) for atom in found if atom is not None]
        wrong = [(SLANTED, shot.found["slanted"]), (RIGHT_TO_LEFT, shot.found["reordered"])]
        unseen = shot.found["unseen"]
        cuts = screens(atoms, height, max_side * self.zoom)
        if top + height / self.zoom < shot.full - 1 and len(cuts) > 1:
            cuts.pop()
        for start, end in cuts:
            box = (0, skip + start, width, skip + end)
            picture = shot.picture.crop(box)
            inside = [shifted(a, 0, start) for a in atoms if start <= (a.box[1] + a.box[3]) / 2 < end]
            seen = seen_atoms(inside, picture, shot.bare.crop(box), exact=False)
            lines = tuple(merge(without_leaders(seen.atoms)))
            problems = (name for name, ys in wrong if any(start <= self.zoom * y - skip < end for y in ys))
            yield Page(picture, lines, label, 0, tuple(problems), unseen + seen.unseen, seen.stray)
            unseen = 0

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _launch(self) -> Any:
        """With Chromium's sandbox where it works: never for root, and not in every container."""
        switches = SWITCHES if self.settings.allow_network else SWITCHES + OFFLINE_SWITCHES
        options = {"executable_path": self._executable, "args": list(switches)}
        if os.geteuid() != 0:
            try:
                return await self._driver.chromium.launch(chromium_sandbox=True, **options)
            except self._api.Error:
                logger.warning("Chromium's sandbox does not start here: going on without it")
        options["args"] = [*options["args"], "--no-sandbox"]
        try:
            return await self._driver.chromium.launch(**options)
        except self._api.Error as error:
            reason = str(error).splitlines()[0]
            raise MissingDependencyError(f"{self._executable} does not start ({reason}): reinstall it") from error

    async def _in_time(self, work: Coroutine[Any, Any, T], label: str) -> T:
        """One step of reading a document, within the time limit."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await work
        except TimeoutError as error:
            limit = f"{self.settings.timeout:g} seconds"
            raise DataError(
                f"{label}: not read within {limit}; a script that never ends, or allow more time"
            ) from error
        except self._api.Error as error:
            raise DataError(f"{label}: can't be rendered ({str(error).splitlines()[0]})") from error

    async def _fresh_context(self, source: str | Path, label: str) -> Any:
        """One document's own; where none comes in time, the next document gets another browser."""
        try:
            return await self._in_time(self._context(source), label)
        except DataError:
            await self._give_up()
            raise

    async def _leave(self, context: Any) -> None:
        if not await self._close(context):
            await self._give_up()

    async def _give_up(self) -> None:
        if self._browser is not None:
            await self._close(self._browser)
            self._browser = None

    async def _close(self, what: Any) -> bool:
        """Whether it closed: a renderer in an endless script may not hear of it."""
        with suppress(TimeoutError, self._api.Error):
            async with asyncio.timeout(CLOSING_S):
                await what.close()
                return True
        return False

    async def _open(self, context: Any, source: str | Path) -> Any:
        page = await context.new_page()
        address = str(source) if is_url(source) else Path(source).resolve().as_uri()
        await page.goto(address, wait_until="load", timeout=0)
        await page.evaluate(_ADD_STYLE, STYLE)
        await _wait_for_fonts(page)
        height = min(int(await page.evaluate(_HEIGHT)), WINDOW // self.zoom)
        await page.set_viewport_size({"width": self.width, "height": height})
        return page

    async def _look(self, page: Any, top: float) -> _Shot:
        full = int(await page.evaluate(_HEIGHT))
        top = float(await page.evaluate(_SCROLL, top))
        found = await page.evaluate(_script())
        picture = await self._screenshot(page, None)
        bare = await self._screenshot(page, BARE_STYLE)
        return _Shot(full, top, found, _image(picture), _image(bare))

    async def _screenshot(self, page: Any, style: str | None) -> bytes:
        """A busy machine's Chromium refuses now and then, and does it a moment later."""
        for _ in range(SCREENSHOT_ATTEMPTS - 1):
            try:
                return bytes(await page.screenshot(animations="disabled", timeout=0, style=style))
            except self._api.Error as error:
                if "Unable to capture" not in str(error):
                    raise
                await asyncio.sleep(SCREENSHOT_WAIT_S)
        return bytes(await page.screenshot(animations="disabled", timeout=0, style=style))

    async def _context(self, source: str | Path) -> Any:
        if self._browser is None or not self._browser.is_connected():
            self._browser = await self._launch()
        context = await self._browser.new_context(
            viewport={"width": self.width, "height": 768},
            device_scale_factor=self.zoom,
            java_script_enabled=self.settings.scripts,
            bypass_csp=True,
            accept_downloads=False,
            service_workers="block",
            locale="en-US",
            offline=not self.settings.allow_network,
        )
        folder = None if is_url(source) else Path(source).resolve().parent
        opened = False

        async def decide(route: Any) -> None:
            nonlocal opened
            leaves = self._fills_a_window(route.request)
            if self._allowed(route.request.url, folder) and not (leaves and opened):
                opened = opened or leaves
                await route.continue_()
            else:
                self.blocked += 1
                await route.abort("aborted" if leaves else "blockedbyclient")  # aborted: the document stays

        async def refuse(web_socket: Any) -> None:
            self.blocked += 1
            await web_socket.close()

        await context.route("**/*", decide)
        if not self.settings.allow_network:
            await context.route_web_socket("**/*", refuse)
        return context

    def _fills_a_window(self, request: Any) -> bool:
        """Whether it asks for a document of its own, not for one in a frame of another."""
        if not request.is_navigation_request():
            return False
        try:
            return request.frame.parent_frame is None
        except self._api.Error:  # of a window that is only about to open
            return True

    def _allowed(self, address: str, folder: Path | None) -> bool:
        """Files below the document's own folder; http(s) only where the network is allowed."""
        parts = urlsplit(address)
        if parts.scheme in ("http", "https"):
            return self.settings.allow_network
        if parts.scheme == "file" and not parts.netloc and folder is not None:
            return Path(os.fsdecode(unquote_to_bytes(parts.path))).resolve().is_relative_to(folder)
        return parts.scheme in ("data", "about")


async def _wait_for_fonts(page: Any) -> None:
    """Until the page's own fonts are there, two seconds at most: text moves when they come."""
    for _ in range(FONT_CHECKS):
        if await page.evaluate("document.fonts.status") == "loaded":
            return
        await page.wait_for_timeout(FONT_PAUSE_MS)


def _image(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert("RGB")


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
    return Atom(text, box, box, item["angle"], bool(item["space"]))


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
