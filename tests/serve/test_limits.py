"""What a server refuses, and that a client that leaves frees its row."""

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable

import httpx
import pytest
from PIL import Image as PILImage
from running import Running

from qvl.errors import UsageError
from qvl.generate.request import Step
from qvl.serve.settings import Settings

LONG = {"model": "tiny", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 1900, "temperature": 2}


def shown(data: bytes) -> dict[str, object]:
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    part = {"type": "image_url", "image_url": {"url": uri}}
    return {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": [part]}]}


def post(server: Running, body: dict[str, object], **settings: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60, **settings)  # type: ignore[arg-type]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """Zeros, whose rows need not be there for a header to claim them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(height, 8) * (width + 1) if width < 10**5 else 10))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(extra)
        + png_chunk(b"IDAT", rows)
        + png_chunk(b"IEND", b"")
    )


def saved(picture: PILImage.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


FRAME = PILImage.new("RGB", (40, 30), "red")
BOMBS = {
    "40000 squared": png(40000, 40000),
    "a billion pixels": png(10**9, 1),
    "as many as fit": png(2**31 - 1, 2**31 - 1),
    "no pixels": png(0, 10),
    "cut short": png(600, 600)[:-30],
    "text that swells": png(10, 10, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 * 2**20), 9))),
    "profile that swells": png(10, 10, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80 * 2**20), 9))),
    "not a picture": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a PDF": b"%PDF-1.4 ...",
    "EPS, which runs a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "nothing": b"",
}
FINE = {
    "an animation": saved(FRAME, "GIF", save_all=True, append_images=[FRAME.rotate(90)] * 50),
    "an animated PNG": saved(FRAME, "PNG", save_all=True, append_images=[FRAME.rotate(90)] * 50),
    "CMYK": saved(FRAME.convert("CMYK"), "JPEG"),
    "16 bits": saved(PILImage.new("I;16", (20, 20)), "PNG"),
    "a palette": saved(FRAME.convert("P"), "PNG", transparency=0),
    "rotated": saved(FRAME, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
}


def memory_kib() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_from_their_header(server: Running, name: str) -> None:
    post(server, shown(FINE["CMYK"]))
    before = memory_kib()
    response = post(server, shown(BOMBS[name]))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] in ("invalid_image", "image_too_large")
    assert "0x" not in error["message"], "no addresses of objects"
    assert memory_kib() - before < 50_000


@pytest.mark.parametrize("name", FINE)
def test_odd_pictures_are_read(server: Running, name: str) -> None:
    assert post(server, shown(FINE[name])).status_code == 200


def slowed(server: Running) -> Running:
    """Its steps take longer, so that answers last."""
    step = server.worker.engine.step

    def slow() -> list[Step]:
        time.sleep(0.1)
        return step()

    server.worker.engine.step = slow  # type: ignore[method-assign]
    return server


def test_a_client_that_leaves_frees_its_row(start: Callable[..., Running]) -> None:
    """Whether it waits for a stream or for the whole answer."""
    server = slowed(start())
    for stream in (True, False):
        gone = server.metric("qvl_disconnected_total")
        body = json.dumps({**LONG, "stream": stream}).encode()
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            deadline = time.monotonic() + 10
            while server.worker.engine.num_running == 0 and time.monotonic() < deadline:
                time.sleep(0.005)
            assert server.worker.engine.num_running == 1
        left = time.monotonic()
        while server.worker.engine.num_running and time.monotonic() < left + 10:
            time.sleep(0.005)
        assert time.monotonic() - left < 1
        assert server.worker.num_open == 0
        assert server.metric("qvl_disconnected_total") == gone + 1


def test_more_requests_than_may_wait_are_told_so(start: Callable[..., Running]) -> None:
    server = slowed(start(max_rows=1, max_waiting=1))
    with httpx.Client() as client:
        streams = [client.stream("POST", f"{server.url}/v1/chat/completions", json={**LONG, "stream": True})]
        streams[0].__enter__()
        assert post(server, {**LONG, "n": 2}).status_code == 429
        refused = post(server, {**LONG, "n": 2})
        assert refused.json()["error"]["code"] == "server_busy"
        assert refused.headers["Retry-After"] == "1"
        streams[0].__exit__(None, None, None)
    deadline = time.monotonic() + 5
    while server.worker.num_open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert post(server, {**LONG, "max_tokens": 1}).status_code == 200


def test_a_body_is_read_no_further_than_its_limit(start: Callable[..., Running]) -> None:
    server = start(max_body_bytes=10_000, max_image_bytes=5000, max_images=2, max_pixels=1000)
    response = httpx.post(f"{server.url}/v1/chat/completions", content=b" " * 10_001)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    endless = httpx.post(f"{server.url}/v1/chat/completions", content=(b" " * 1000 for _ in range(50)))
    assert endless.status_code == 413
    assert post(server, shown(bytes(6000))).json()["error"]["code"] == "image_too_large"
    assert post(server, shown(FINE["CMYK"])).json()["error"]["code"] == "image_too_large", "1,200 pixels"
    many = shown(b"")
    many["messages"][0]["content"] *= 3  # type: ignore[index]
    assert post(server, many).json()["error"]["code"] == "too_many_images"


def test_a_key_is_asked_for_everywhere_but_on_the_page(start: Callable[..., Running]) -> None:
    server = start(api_key="secret ключ")
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        assert httpx.get(server.url + path).status_code == 401
    for path in ("/health", "/", "/chat.js"):
        assert httpx.get(server.url + path).status_code == 200
    wrong = post(server, LONG, headers={"Authorization": "Bearer secret"})
    assert wrong.status_code == 401
    assert wrong.json()["error"]["code"] == "invalid_api_key"
    right = {"Authorization": "Bearer secret ключ".encode()}
    assert post(server, {**LONG, "max_tokens": 1}, headers=right).status_code == 200


def test_a_server_that_others_can_reach_needs_a_key() -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0.*--api-key"):
        Settings(host="0.0.0.0")
    Settings(host="0.0.0.0", api_key="k")
    with pytest.raises(UsageError, match="--allow-urls"):
        Settings(allowed_domains=("example.org",))


def test_no_picture_is_fetched_unless_it_is_allowed(server: Running, tmp_path: object) -> None:
    for url in ("https://example.org/a.png", "file:///etc/passwd", "/etc/passwd", "examples/picture.png"):
        body = shown(b"")
        body["messages"][0]["content"][0]["image_url"]["url"] = url  # type: ignore[index]
        response = post(server, body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "urls_not_allowed")
