"""Web pages through a real Chromium: what is seen is labelled, what is not is not, and no page holds up the run."""

import os
import select
import signal
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from qvl.cli import main
from qvl.data.ocr import html
from qvl.data.ocr.build import build_ocr
from qvl.data.ocr.filters import RIGHT_TO_LEFT, SLANTED, STRAY, PageFilter, page_problem
from qvl.data.ocr.html import Browser, HtmlSettings
from qvl.data.ocr.page import Page
from qvl.data.sample import read_split
from qvl.errors import DataError, UsageError
from qvl.text.markup import Ref

HEAD = "<!doctype html><meta charset='utf-8'><style>body { font: 24px 'DejaVu Sans', sans-serif }</style>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def scripted() -> Iterator[Browser]:
    with Browser(HtmlSettings(scripts=True, timeout=3)) as browser:
        yield browser


def read(browser: Browser, folder: Path, body: str) -> Page:
    (folder / "page.html").write_text(f"{HEAD}<p>Sixteen pigeons</p>{body}<p>on the roof</p>", encoding="utf-8")
    [page] = browser.pages(folder / "page.html")
    assert isinstance(page, Page)
    return page


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


COVER = "position: absolute; inset: 0; width: 9em; height: 2em; background: tan"
HIDDEN = [
    "<p style='display: none'>secret</p>",
    "<p style='visibility: hidden'>secret</p>",
    "<p style='opacity: 0'>secret</p>",
    "<div style='opacity: 0'><p style='opacity: 1'>secret</p></div>",
    "<p style='color: transparent'>secret</p>",
    "<p style='color: white'>secret</p>",
    "<p style='font-size: 0'>secret</p>",
    "<p style='filter: opacity(0)'>secret</p>",
    "<p style='clip-path: inset(100%)'>secret</p>",
    "<p style='transform: scale(0)'>secret</p>",
    "<p style='text-indent: -9999px'>secret</p>",
    "<p style='position: absolute; left: -500px'>secret</p>",
    "<p style='position: absolute; top: -100px'>secret</p>",
    "<p style='position: absolute; width: 1px; height: 1px; overflow: hidden; clip: rect(0 0 0 0)'>secret</p>",
    "<p style='overflow: hidden; height: 0'>secret</p>",
    "<div style='overflow: hidden; height: 40px'><p style='margin-top: 60px'>secret</p></div>",
    "<details><summary>more</summary>secret</details>",
    "<template>secret</template><noscript>shown</noscript><script>secret</script><style>secret {}</style>",
    "<p style='content-visibility: hidden'>secret</p>",
    "<p style='-webkit-text-fill-color: transparent'>secret</p>",
    "<p style='background: linear-gradient(#000, #446); background-clip: text; color: transparent'>secret</p>",
    "<p style='color: transparent; text-shadow: 0 0 1px #000'>secret</p>",
    "<marquee>secret</marquee><video controls width=300 height=60></video>",
    f"<p style='position: relative'>secret<b style='{COVER}'></b>",
    "<img src='none.png' alt='secret' width=200 height=40>",
    "<iframe srcdoc='secret'></iframe><input value='secret'><textarea>secret</textarea>",
    "<style>.a::before { content: 'secret' }</style><p class='a'></p><ul style='list-style: \"secret\"'><li></ul>",
]


@pytest.mark.parametrize("body", HIDDEN)
def test_what_the_page_does_not_show_is_no_label(browser: Browser, tmp_path: Path, body: str) -> None:
    page = read(browser, tmp_path, body)
    shown = {"more", "shown"} & set(body.replace("<", ">").split(">"))
    assert texts(page) == ["Sixteen pigeons", *shown, "on the roof"]
    assert page.stray == 0, "and nothing else is seen"
    assert page_problem(page, PageFilter()) is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<div style='position: relative'>seen<a style='position: absolute; inset: 0' href='#'></a></div>", "seen"),
        ("<p style='color: white; background: linear-gradient(90deg, #000, #446)'>light on dark</p>", "light on dark"),
        ("<p style='text-transform: uppercase'>loud</p>", "LOUD"),
        ("<details open><summary>more</summary>opened</details>", "more"),
        ("<p>of<wbr>fi&shy;ce <b>wa</b>ffle</p>", "office waffle"),
        ("<svg width=300 height=40><text y=30>drawn words</text></svg>", "drawn words"),
        ("<p style='text-decoration: underline; border-bottom: 3px solid'>underlined</p>", "underlined"),
    ],
)
def test_what_the_page_shows_is_a_label(browser: Browser, tmp_path: Path, body: str, text: str) -> None:
    page = read(browser, tmp_path, body)
    assert text in texts(page)
    assert page.stray == 0


def test_boxes_of_tight_lines_end_between_them(browser: Browser, tmp_path: Path) -> None:
    words = "<br>".join(["pigeons quietly", "jumping gaily", "by the plough"])
    page = read(browser, tmp_path, f"<p style='font-size: 40px; line-height: 1'>{words}</p>")
    assert len(page.lines) == 5
    for above, below in pairwise(page.lines):
        assert above.ink[3] <= below.ink[1] + 1
    assert page.stray < 0.01


def test_footnote_marks_without_a_line_height_are_labelled(browser: Browser, tmp_path: Path) -> None:
    """normalize.css, and so many web pages."""
    rule = "<style>sub, sup { font-size: 75%; line-height: 0; position: relative } sup { top: -0.5em }</style>"
    page = read(browser, tmp_path, f"{rule}<p>pigeons<sup>12</sup> sat</p><p>鸽子<sup>[注]</sup></p>")
    assert texts(page) == ["Sixteen pigeons", "pigeons", "12", "sat", "鸽子", "[注]", "on the roof"]
    assert page.unseen == page.stray == 0


def test_text_that_is_seen_and_not_read_drops_the_page(browser: Browser, tmp_path: Path) -> None:
    """A shadow tree, whose text stands in no document order."""
    shadow = "<div><template shadowrootmode='open'><p>words of the shadow tree</p></template></div>"
    assert page_problem(read(browser, tmp_path, shadow), PageFilter()) == STRAY


@pytest.mark.parametrize(
    "body",
    [
        "<div style='position: fixed; overflow: auto; height: 300px'>words <p style='margin-top: 2000px'>secret</div>",
        "<p style='position: absolute; top: -100px'>secret</p>",
        "<p style='text-indent: -9999px'>secret</p>",
    ],
)
def test_words_that_no_window_shows_are_counted(browser: Browser, tmp_path: Path, body: str) -> None:
    page = read(browser, tmp_path, body)
    assert ("secret" not in texts(page), page.unseen) == (True, 1)


def test_an_inner_scroller_loses_no_word_uncounted(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most web applications: the window never scrolls, an element of its size does. Counted once in all windows."""
    style = "<style>body { height: 100vh; margin: 0; overflow: hidden } main { height: 700px; overflow: auto }</style>"
    rows = "".join(f"<p style='height: 100px'>row {n}</p>" for n in range(20))
    (tmp_path / "page.html").write_text(f"{HEAD}{style}<main>{rows}</main>")
    monkeypatch.setattr(html, "WINDOW", 500)
    pages = [page for page in browser.pages(tmp_path / "page.html") if isinstance(page, Page)]
    assert sum(len(page.text.split()) + page.unseen for page in pages) == 40


@pytest.mark.parametrize(
    "body",
    [
        "<p>\u202esnoegip neetxis\u202c</p>",
        "<p>\u202e<b>snoegip</b> neetxis</p>",
        "<bdo dir='rtl'>snoegip neetxis</bdo>",
        "<p style='unicode-bidi: bidi-override; direction: rtl'><b>snoegip</b></p>",
    ],
)
def test_text_in_a_forced_order_drops_its_screen_alone(browser: Browser, tmp_path: Path, body: str) -> None:
    (tmp_path / "page.html").write_text(f"{HEAD}<p style='margin-bottom: 1100px'>straight words</p>{body}", "utf-8")
    reasons = [page_problem(page, PageFilter(min_side=64)) for page in browser.pages(tmp_path / "page.html")]
    assert reasons == [None, RIGHT_TO_LEFT]


def test_pictures_that_move_stand_still(browser: Browser, tmp_path: Path) -> None:
    """Between the two pictures of a page: what changes would be ink."""
    frames = [Image.new("RGB", (200, 100), colour) for colour in ("white", "black") * 4]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:], duration=20, loop=0)
    assert read(browser, tmp_path, "<img src='moves.gif' alt=''>").stray == 0


def test_turned_text_drops_its_screen_alone(browser: Browser, tmp_path: Path) -> None:
    turned = "<p style='rotate: 4deg'>leaning</p><p style='rotate: 9deg; opacity: 0'>hidden</p>"
    (tmp_path / "page.html").write_text(f"{HEAD}<p style='margin-bottom: 1100px'>straight words</p>{turned}")
    reasons = [page_problem(page, PageFilter(min_side=64)) for page in browser.pages(tmp_path / "page.html")]
    assert reasons == [None, SLANTED]


def test_vertical_chinese_has_columns_from_right_to_left(browser: Browser, tmp_path: Path) -> None:
    style = "writing-mode: vertical-rl; height: 130px; font: 20px/1.6 'WenQuanYi Zen Hei Mono'"
    page = read(browser, tmp_path, f'<div style="{style}">屋顶上坐着十六只灰色的鸽子GPU很快</div>')
    columns = page.lines[1:-1]
    assert "".join(line.text for line in columns) == "屋顶上坐着十六只灰色的鸽子GPU很快"
    assert len(columns) > 2
    for line, following in pairwise(columns):
        assert line.ink[0] > following.ink[2]
        assert line.corners[0] == line.ink[:2]
    assert page_problem(page, PageFilter()) is None


def test_columns_and_sidebars_are_read_in_document_order(browser: Browser, tmp_path: Path) -> None:
    words = "<br>".join(f"line {n}" for n in range(8))
    side = "<div style='float: left; width: 200px'>one<br>two<br>three</div>"
    page = read(browser, tmp_path, f"<div style='columns: 2'>{words}</div>{side}<div>main<br>body<br>text</div>")
    expected = [f"line {n}" for n in range(8)] + ["one", "two", "three", "main", "body", "text"]
    assert texts(page)[1:-1] == expected


ENDLESS = [
    "<script>while (true) {}</script>",
    "<script>setTimeout(() => { while (true) {} }, 50)</script>",
    "<script>addEventListener('load', () => { while (true) {} })</script>",
    "<script>Object.defineProperty(document, 'fonts', {get() { while (true) {} }})</script>",
]


@pytest.mark.parametrize("body", ENDLESS)
def test_a_script_without_end_ends_at_the_limit_and_the_browser_goes_on(
    scripted: Browser, tmp_path: Path, body: str
) -> None:
    (tmp_path / "endless.html").write_text(f"{HEAD}never{body}")
    with pytest.raises(DataError, match=r"endless\.html: not read within 3 seconds"):
        list(scripted.pages(tmp_path / "endless.html", name="endless.html"))
    assert texts(read(scripted, tmp_path, "")) == ["Sixteen pigeons", "on the roof"]


STILL = [
    "<script>window.scrollTo = Element.prototype.scrollTo = () => {}</script>",
    "<script>Object.defineProperty(window, 'scrollY', {get: () => 0})</script>",
]


@pytest.mark.parametrize("head", STILL)
def test_a_page_that_does_not_scroll_is_read_as_far_as_it_shows(
    scripted: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(html, "WINDOW", 700)
    (tmp_path / "page.html").write_text(f"{HEAD}{head}<p>Sixteen pigeons</p><p style='margin-top: 1500px'>never")
    pages = scripted.pages(tmp_path / "page.html", name="page.html")
    assert texts(next(pages)) == ["Sixteen pigeons"]
    with pytest.raises(DataError, match=r"page\.html: does not scroll to pixel \d+ of 1\d+"):
        list(pages)


@pytest.mark.parametrize(
    "head",
    [
        f"{HEAD}<script>window.scrollTo = () => {{}}</script>",
        "<meta charset='utf-8'><p>a page without a doctype",
        "<meta charset='utf-8'><style>html, body { overflow: auto }</style><p>and one whose body scrolls as well",
        f"{HEAD}<style>html {{ scroll-snap-type: y mandatory }} p {{ scroll-snap-align: start }}</style>",
    ],
)
def test_pages_that_mind_being_scrolled_are_read_to_their_end(
    scripted: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(html, "WINDOW", 700)
    rows = [f"row {n}" for n in range(9)]
    (tmp_path / "page.html").write_text(head + "".join(f"<p style='height: 300px'>{row}</p>" for row in rows))
    read = [text for page in scripted.pages(tmp_path / "page.html") for text in texts(page)]
    assert read[-len(rows) :] == rows


def test_scripts_run_only_when_asked(browser: Browser, scripted: Browser, tmp_path: Path) -> None:
    body = "<p id='p'>before</p><script>document.getElementById('p').textContent = 'after'</script>"
    assert "before" in texts(read(browser, tmp_path, body))
    assert "after" in texts(read(scripted, tmp_path, body))


def test_the_command_goes_on_after_an_endless_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.html").write_text(ENDLESS[0])
    (tmp_path / "b.html").write_text(f"{HEAD}<p id=p>Sixteen pigeons</p><script>p.append(' fly')</script>")
    out = tmp_path / "out"
    assert main(["data", "html", str(tmp_path), "--out", str(out), "--scripts", "--timeout", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 files, 1 pages: 1 kept" in said
    assert "failed: a.html: not read within 2 seconds" in said
    [sample] = read_split(out)
    assert sample.turns[1].content[0] == Ref("Sixteen pigeons fly")


def test_a_browser_that_does_not_close_its_page_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "CLOSING_S", 0.0)
    with Browser(HtmlSettings(scripts=True, timeout=2)) as browser:
        (tmp_path / "endless.html").write_text(ENDLESS[0])
        with pytest.raises(DataError, match="not read within 2 seconds"):
            list(browser.pages(tmp_path / "endless.html"))
        monkeypatch.setattr(html, "CLOSING_S", 5.0)
        assert texts(read(browser, tmp_path, "")) == ["Sixteen pigeons", "on the roof"]


def test_a_browser_that_died_starts_anew(tmp_path: Path) -> None:
    with Browser() as browser:
        browser._wait(browser._browser.close())
        assert texts(read(browser, tmp_path, "")) == ["Sixteen pigeons", "on the roof"]


def test_a_browser_that_hangs_is_left_for_another(tmp_path: Path) -> None:
    with Browser(HtmlSettings(timeout=3)) as browser:
        session = browser._wait(browser._browser.new_browser_cdp_session())
        processes = browser._wait(session.send("SystemInfo.getProcessInfo"))["processInfo"]
        [hung] = [process["id"] for process in processes if process["type"] == "browser"]
        os.kill(hung, signal.SIGSTOP)
        try:
            with pytest.raises(DataError, match=r"page\.html: not read within 3 seconds"):
                read(browser, tmp_path, "")
            assert texts(read(browser, tmp_path, "")) == ["Sixteen pigeons", "on the roof"]
        finally:
            os.kill(hung, signal.SIGKILL)


@pytest.mark.parametrize(
    "leave",
    [
        "<meta http-equiv=refresh content='0; url=other.html'>",
        "<script>addEventListener('load', () => location = 'other.html')</script>",
        "<script>addEventListener('load', () => location.reload())</script>",
        "<script>open('other.html')</script>",
    ],
)
def test_a_document_that_goes_to_another_is_read_itself(scripted: Browser, tmp_path: Path, leave: str) -> None:
    (tmp_path / "other.html").write_text(f"{HEAD}<p>another document</p>")
    before = scripted.blocked
    assert texts(read(scripted, tmp_path, leave)) == ["Sixteen pigeons", "on the roof"]
    assert scripted.blocked == before + 1


def test_frames_load_their_documents(scripted: Browser, tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text("<script>parent.postMessage('loaded', '*')</script>")
    said = "<script>addEventListener('message', (event) => document.body.append(event.data))</script>"
    assert "loaded" in texts(read(scripted, tmp_path, f"{said}<iframe src='other.html'></iframe>"))[-1]


def test_scripts_reach_no_network_by_other_ways_than_requests(scripted: Browser, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        call = f"new WebSocket('ws://127.0.0.1:{server.getsockname()[1]}/')"
        scripts = f"""{call}; new Worker(URL.createObjectURL(new Blob([`{call}`])));
            const urls = "stun:127.0.0.1:{datagrams.getsockname()[1]}";
            const peer = new RTCPeerConnection({{iceServers: [{{urls}}]}});
            peer.createDataChannel("x"); peer.createOffer().then((offer) => peer.setLocalDescription(offer));"""
        assert texts(read(scripted, tmp_path, f"<script>{scripts}</script>")) == ["Sixteen pigeons", "on the roof"]
        assert select.select([server, datagrams], [], [], 0.3) == ([], [], [])


def test_a_page_that_never_finishes_loading_is_counted(tmp_path: Path) -> None:
    (tmp_path / "good.html").write_text(f"{HEAD}<p>Sixteen pigeons</p>")
    with socket.create_server(("127.0.0.1", 0)) as server:  # its calls wait for an answer that never comes
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        settings = HtmlSettings(allow_network=True, timeout=2)
        report = build_ocr([address, tmp_path / "good.html"], tmp_path / "out", html=settings)
    assert report.samples == 1
    [failure] = report.failures
    assert failure.startswith(f"{address}: not read within 2 seconds")
    assert "1 documents or pages failed" in report.summary()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_number_of_seconds(timeout: float) -> None:
    with pytest.raises(UsageError, match="timeout"):
        HtmlSettings(timeout=timeout)
