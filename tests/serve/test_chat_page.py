"""The page in a real browser: against the real server, and against answers that no model would give."""

import base64
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from page_server import PAGE, RefusedError, Script, serving
from PIL import Image as PILImage
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from running import Running

from qvl.data.ocr.html import find_browser
from qvl.text.markup import Box, Quad, Ref, Text, from_grid, parse_markup

HOUSE = PAGE / "examples" / "house.webp"
FOUND = "I see <ref>a cat</ref><box>(100,200),(500,600)</box> here."
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 860}
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens the page before a script; what the page complains of, its policy included, fails the test."""
    closing: list[Any] = []
    complaints: list[str] = []

    def open_page(script: Script | Running, **options: Any) -> Page:
        server = serving(script) if isinstance(script, Script) else nullcontext(script.url)
        context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options})
        closing.extend([server, context])
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Policy" in said.text else None)
        page.goto(server.__enter__())
        return page

    yield open_page
    for thing in reversed(closing):
        thing.close() if hasattr(thing, "close") else thing.__exit__(None, None, None)
    assert not complaints


def says(*pieces: str) -> Script:
    """The same pieces to every question."""
    return Script(lambda request: iter(pieces))


def png(width: int, height: int) -> dict[str, Any]:
    """A picture as a file to choose."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return {"name": f"{width}x{height}.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def drop(page: Page, path: Path) -> None:
    """A real drop event with a real file in it."""
    page.evaluate(
        """([name, data]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], name, { type: "image/webp" }));
            for (const type of ["dragenter", "dragover", "drop"])
                document.querySelector("main").dispatchEvent(
                    new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def ask(page: Page, question: str, *pictures: dict[str, Any]) -> None:
    if pictures:
        page.set_input_files("#files", list(pictures))
        expect(page.locator("#tray li")).to_have_count(len(pictures))
    page.fill("#question", question)
    page.press("#question", "Enter")


def answer(page: Page) -> Locator:
    """The newest answer, once it is complete."""
    finished = page.locator(".exchange:last-child .answer[aria-busy=false]")
    finished.wait_for()
    return finished


def drawn_boxes(answer: Locator) -> list[tuple[float, ...]]:
    """The outlines' boxes in fractions of the picture, as the browser has laid them out."""
    found: list[tuple[float, ...]] = answer.evaluate(
        """(answer) => {
            const frame = answer.querySelector(".frame img").getBoundingClientRect();
            return [...answer.querySelectorAll("polygon.line")].map((line) => {
                const box = line.getBoundingClientRect();
                return [(box.left - frame.left) / frame.width, (box.top - frame.top) / frame.height,
                        (box.right - frame.left) / frame.width, (box.bottom - frame.top) / frame.height];
            });
        }"""
    )
    return [tuple(box) for box in found]


def test_a_dropped_picture_is_asked_about_and_its_box_is_drawn(opened: Open, server: Running) -> None:
    page = opened(server)
    drop(page, HOUSE)
    expect(page.locator("#tray img")).to_be_visible()
    expect(page.locator("#drop")).to_be_hidden()
    ask(page, "Find the red house.")
    expect(answer(page).locator(".said")).to_have_text("red house")
    expect(answer(page).locator(".label")).to_have_text("red house")
    [box] = drawn_boxes(answer(page))
    assert box == pytest.approx([40 / 112, 48 / 112, 88 / 112, 96 / 112], abs=0.02)
    expect(page.locator("#tray img")).to_have_count(0)


def test_an_example_is_one_click(opened: Open, server: Running) -> None:
    page = opened(server)
    page.locator("#examples button", has_text="OCR").click()
    assert answer(page).locator(".label").all_inner_texts() == ["BOOK", "SHOP"]
    expect(page.locator("#welcome")).to_be_hidden()


def test_boxes_and_quads_lie_where_the_answer_says(opened: Open) -> None:
    page = opened(says("<ref>a</ref><box>(100,200),(500,600)</box><quad>(10,0),(999,20),(990,40),(0,30)</quad>"))
    ask(page, "Where?", png(600, 200))
    boxes = drawn_boxes(answer(page))
    for box, corners in zip(boxes, [(100, 200, 500, 600), (0, 0, 999, 40)], strict=True):
        assert box == pytest.approx([from_grid(value, 1) for value in corners], abs=0.001)
    expect(answer(page).locator(".label")).to_have_count(1)


def test_boxes_come_while_the_answer_does_and_no_tag_is_ever_seen(opened: Open) -> None:
    go_on = threading.Event()

    def reply(request: dict[str, Any]) -> Iterator[str]:
        yield from FOUND.partition(" here")[0]
        go_on.wait(20)
        yield from " here. <ref>a <dog</ref><box>(1,2),(3,4)"

    page = opened(Script(reply))
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => {
            for (const said of document.querySelectorAll(".said")) window.seen.add(said.textContent);
        }).observe(document.body, { childList: true, subtree: true }) }"""
    )
    ask(page, "Where?", png(300, 200))
    expect(page.locator(".answer polygon.line")).to_have_count(1)
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    go_on.set()
    expect(answer(page).locator(".said")).to_have_text("I see a cat here. a <dog(1,2),(3,4)")
    seen: set[str] = set(page.evaluate("[...window.seen]"))
    assert len(seen) > 10
    assert not [text for text in seen if any(tag in text for tag in ("<r", "</", "<b", "ref>", "box>"))]


def test_neighbouring_phrases_have_a_space_between_them_when_copied_too(opened: Open) -> None:
    page = opened(
        says("<ref>BOOK</ref><box>(1,1),(2,2)</box><ref>SHOP</ref><box>(3,3),(4,4)</box>, <box>(5,5),(6,6)</box>")
    )
    ask(page, "Read.")
    expect(answer(page).locator(".said")).to_have_text("BOOK SHOP, ")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer(page).locator(".copy").click()
    expect(answer(page).locator(".copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "BOOK SHOP,"


def test_a_phrase_lights_its_boxes_and_a_box_its_phrase(opened: Open) -> None:
    page = opened(says("<ref>a</ref><box>(0,0),(300,900)</box> and <ref>b</ref><box>(500,100),(900,900)</box>"))
    ask(page, "Where?", png(300, 200))
    lit = answer(page).locator(".on")
    answer(page).locator("mark", has_text="b").hover()
    assert lit.evaluate_all("nodes => nodes.map((node) => node.dataset.group)") == ["1", "1", "1"]
    answer(page).locator("g[data-group='0']").hover()
    assert lit.evaluate_all("nodes => nodes.map((node) => node.dataset.group)") == ["0", "0", "0"]
    answer(page).locator("mark", has_text="b").press("Enter")
    page.mouse.move(0, 0)
    expect(answer(page).locator("mark.on")).to_have_text("b")


def test_the_picture_that_a_question_names_gets_the_boxes(opened: Open) -> None:
    script = says(FOUND)
    page = opened(script)
    for question, width in (("图1中，猫在哪里？", 30), ("in Picture 2?", 60), ("picture 9?", 60), ("where?", 60)):
        ask(page, question, *([] if script.requests else [png(30, 40), png(60, 40)]))
        image = answer(page).locator(".frame img")
        assert image.evaluate("image => image.naturalWidth") == width
    messages = script.requests[-1]["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant"] * 3 + ["user"]
    assert [part["type"] for part in messages[0]["content"]] == ["image_url", "image_url", "text"]
    assert messages[1]["content"] == FOUND, "the history keeps the markup"


def test_a_stopped_answer_stays_and_is_told_on(opened: Open) -> None:
    gone = threading.Event()

    def reply(request: dict[str, Any]) -> Iterator[str]:
        yield "a long"
        try:
            while len(request["messages"]) == 1 and not gone.wait(0.02):
                yield " story"
        finally:
            gone.set()

    script = Script(reply)
    page = opened(script)
    ask(page, "Tell me.")
    expect(page.locator(".said")).to_contain_text("a long story story")
    page.click("#stop")
    expect(answer(page).locator(".note")).to_have_text("Stopped.")
    assert gone.wait(10), "the server's work has ended too"
    ask(page, "And?")
    expect(answer(page).locator(".said")).to_have_text("a long")
    assert script.requests[1]["messages"][1]["content"].startswith("a long story story")


def test_a_key_is_asked_for_and_kept_in_the_tab(opened: Open) -> None:
    page = opened(Script(lambda request: iter(["hello"]), key="s3cret"))
    page.fill("#key-value", "wrong")
    page.press("#key-value", "Enter")
    expect(page.locator("#key-why")).to_have_text("The server did not accept that key.")
    page.click("#key-cancel")
    ask(page, "Hi")
    page.fill("#key-value", "s3cret")
    page.press("#key-value", "Enter")
    expect(answer(page).locator(".said")).to_have_text("hello")
    expect(page.locator("#model")).to_have_text("tiny")
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny")


def test_text_stays_text(opened: Open) -> None:
    attack = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'><b>&amp;</b>"
    page = opened(says(f"{attack}<ref>{attack}</ref><box>(1,1),(500,500)</box>"))
    ask(page, attack, png(300, 200) | {"name": f"{attack}.png"})
    expect(answer(page).locator(".said")).to_have_text(attack + attack)
    expect(answer(page).locator(".label")).to_have_text(attack)
    expect(page.locator(".question p")).to_have_text(attack)
    assert page.evaluate("window.hit") is None


def test_the_language_is_the_browsers_until_it_is_switched(opened: Open) -> None:
    page = opened(says("好"), locale="zh-CN")
    expect(page.locator("#question")).to_have_attribute("placeholder", "问问图里的内容")
    ask(page, "你好")
    expect(answer(page).locator(".again")).to_have_text("重新回答")
    page.click("#language")
    expect(answer(page).locator(".again")).to_have_text("Ask again")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#language")).to_have_text("中文")


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(opened: Open, viewport: Any, scheme: Any) -> None:
    wide = "w" * 300
    page = opened(says(f"{wide} <ref>{wide}</ref><box>(700,5),(990,990)</box>"), viewport=viewport, color_scheme=scheme)
    for _ in range(2):
        ask(page, wide, *[png(1200, 100)] * 6)
        answer(page)
    page.set_input_files("#files", [png(900, 100)] * 8)
    expect(page.locator("#tray li")).to_have_count(8)
    for selector in ("html", "main", "#composer"):
        room, content = page.locator(selector).evaluate("node => [node.clientWidth, node.scrollWidth]")
        assert content <= room, selector
    frame, label = (page.locator(f".exchange:last-child {name}").bounding_box() for name in (".frame", ".label"))
    assert frame is not None
    assert label is not None
    assert frame["x"] <= label["x"] + 1
    assert label["x"] + label["width"] <= frame["x"] + frame["width"] + 1


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (RefusedError(429, "queue full"), "The server is busy."),
        (RefusedError(413, "body of 30 MB"), "The pictures are too large"),
        (RefusedError(400, "too long", "context_length_exceeded"), "The conversation no longer fits"),
        (RefusedError(400, "temperature must be at most 2"), "temperature must be at most 2"),
        (RefusedError(500, "boom"), "Something went wrong in the server."),
    ],
    ids=lambda value: value.status if isinstance(value, RefusedError) else "",
)
def test_an_error_is_told_in_words_and_asking_again_helps(opened: Open, refused: RefusedError, words: str) -> None:
    def reply(request: dict[str, Any]) -> Iterator[str]:
        if len(script.requests) == 1:
            raise refused
        yield "better"

    script = Script(reply)
    page = opened(script)
    ask(page, "Hi", png(30, 40))
    expect(answer(page).locator(".note")).to_contain_text(words)
    answer(page).locator(".again").click()
    expect(answer(page).locator(".said")).to_have_text("better")
    expect(page.locator(".exchange")).to_have_count(1)
    assert script.requests[0] == script.requests[1]


def test_an_answer_that_breaks_off_is_no_part_of_the_history_but_its_pictures_are(opened: Open) -> None:
    def reply(request: dict[str, Any]) -> Iterator[str]:
        yield "half of"
        if len(script.requests) == 1:
            raise ConnectionError

    script = Script(reply)
    page = opened(script)
    ask(page, "One?", png(30, 40))
    expect(answer(page).locator(".note")).to_contain_text("the connection broke")
    expect(answer(page).locator(".said")).to_have_text("half of")
    ask(page, "Two?")
    expect(answer(page).locator(".note")).to_have_text("")
    [message] = script.requests[1]["messages"]
    assert [part.get("text", "") for part in message["content"]] == ["", "Two?"]


def test_a_server_that_is_gone_is_told_in_words(opened: Open) -> None:
    page = opened(says("never"))
    expect(page.locator("#model")).to_have_text("tiny")
    page.context.set_offline(True)
    ask(page, "Hi")
    expect(answer(page).locator(".note")).to_contain_text("can't be reached")


def test_an_answer_that_is_cut_says_why(opened: Open) -> None:
    page = opened(Script(lambda request: iter(["so much"]), finish="length"))
    ask(page, "Hi")
    expect(answer(page).locator(".note")).to_contain_text("longest length")


def test_enter_sends_but_not_while_characters_are_composed(opened: Open) -> None:
    script = says("ok")
    page = opened(script)
    page.fill("#question", "ni")
    for options in ({"isComposing": True}, {"keyCode": 229}, {"shiftKey": True}):
        page.dispatch_event("#question", "keydown", {"key": "Enter", "bubbles": True, **options})
    page.press("#question", "Shift+Enter")
    expect(page.locator("#question")).to_have_value("ni\n")
    assert not script.requests
    page.press("#question", "Enter")
    answer(page)
    assert script.requests[0]["messages"] == [{"role": "user", "content": "ni"}]


def test_a_photograph_is_made_small_and_stands_upright(opened: Open) -> None:
    """The server reads no EXIF: what the camera says about turning must be in the pixels."""
    turned = PILImage.Exif()
    turned[0x0112] = 6  # to be shown a quarter turned to the right
    buffer = io.BytesIO()
    PILImage.effect_noise((3000, 1500), 60).convert("RGB").save(buffer, "JPEG", exif=turned)
    script = says("ok")
    page = opened(script)
    ask(page, "Hi", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()})
    answer(page)
    kind, _, data = script.requests[0]["messages"][0]["content"][0]["image_url"]["url"].partition(";base64,")
    sent = PILImage.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, sent.size) == ("data:image/jpeg", (768, 1536))
    assert 0x0112 not in sent.getexif()


def test_pictures_can_be_pasted_and_taken_away_before_sending(opened: Open) -> None:
    script = says("ok")
    page = opened(script)
    page.set_input_files("#files", [png(30, 40), png(60, 40)])
    page.evaluate(
        """async () => {
            const clipboardData = new DataTransfer();
            const blob = await (await fetch("examples/ring.webp")).blob();
            clipboardData.items.add(new File([blob], "ring.webp", { type: "image/webp" }));
            document.querySelector("#question").dispatchEvent(
                new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.locator("#tray li")).to_have_count(3)
    page.locator("#tray button").nth(1).click()
    page.set_input_files("#files", [{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}])
    expect(page.locator("#notice")).to_have_text("notes.txt can't be read as a picture.")
    ask(page, "What?")
    answer(page)
    expect(page.locator(".question img")).to_have_count(2)
    assert len(script.requests[0]["messages"][0]["content"]) == 3


def test_asking_again_editing_and_a_new_chat(opened: Open) -> None:
    script = says("ok")
    page = opened(script)
    ask(page, "One?", png(30, 40))
    answer(page).locator(".again").click()
    answer(page).locator(".edit").click()
    expect(page.locator("#question")).to_have_value("One?")
    expect(page.locator("#tray li")).to_have_count(1)
    ask(page, "Two?")
    answer(page)
    page.click("#new")
    expect(page.locator("#welcome")).to_be_visible()
    ask(page, "Three?")
    answer(page)
    assert [len(request["messages"]) for request in script.requests] == [1, 1, 1, 1]
    assert script.requests[2]["messages"][0]["content"][1]["text"] == "Two?"
    assert script.requests[3]["messages"] == [{"role": "user", "content": "Three?"}]


def test_settings_are_sent_and_remembered(opened: Open) -> None:
    script = says("ok")
    page = opened(script)
    ask(page, "Hi")
    answer(page)
    page.click("[popovertarget=settings]")
    page.fill("#temperature", "0.7")
    page.fill("#max-tokens", "64")
    page.reload()
    ask(page, "Hi")
    answer(page)
    sent = [{key: request.get(key) for key in ("model", "temperature", "max_tokens")} for request in script.requests]
    assert sent[0] == {"model": "tiny", "temperature": 0, "max_tokens": None}
    assert sent[1] == {"model": "tiny", "temperature": 0.7, "max_tokens": 64}


ODD = (
    FOUND,
    "no markup",
    "<box>(1,2),(3,4)</box><box>( 5 , 6 ),(7,8)</box>",
    "<ref>a</ref> <ref>b</ref><box>(9,9),(1,1)</box><box>(1,1),(9,9)</box>",
    "<ref>a\nb</ref><quad>(1,2),(3,4),(5,6),(7,8)</quad><quad>(1,2),(3,4),(5,6)</quad>",
    "<ref>open <box>(1,2),(3,4)</box>",
    "<box>(1000,2),(3,4)</box><box>(1,2),(3,4)<box>(5,6),(7,8)</box>",
    "</ref></box><quad>",
)


def test_the_page_reads_markup_as_the_library_does(opened: Open) -> None:
    page = opened(says("ok"))
    script = "async (texts) => { const { parse } = await import('./markup.js'); return texts.map((t) => parse(t)) }"
    for text, parts in zip(ODD, page.evaluate(script, list(ODD)), strict=True):
        shapes = [[tuple(corner) for corner in part["corners"]] for part in parts if "corners" in part]
        content = parse_markup(text)
        assert shapes == [_corners(s) for s in content if isinstance(s, Box | Quad)], text
        phrases = [part["phrase"] for part in parts if "phrase" in part and "corners" not in part]
        assert phrases == [segment.text for segment in content if isinstance(segment, Ref)], text
        words = "".join(part.get("text", "") for part in parts)
        assert words == _without_tags("".join(s.text for s in content if isinstance(s, Text))), text


def _corners(shape: Box | Quad) -> list[tuple[int, int]]:
    c = shape.as_tuple
    if isinstance(shape, Box):
        return [(c[0], c[1]), (c[2], c[1]), (c[2], c[3]), (c[0], c[3])]
    return [(c[i], c[i + 1]) for i in range(0, 8, 2)]


def _without_tags(text: str) -> str:
    for name in ("ref", "box", "quad"):
        text = text.replace(f"<{name}>", "").replace(f"</{name}>", "")
    return text
