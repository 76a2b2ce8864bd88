"""The page's folder behind the server's policy, and a chat API that says what it is told: odd answers, odd errors."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from qvl.serve.guard import POLICY

PAGE = Path("src/qvl/serve/page")
SimpleHTTPRequestHandler.extensions_map |= {".js": "text/javascript", ".webp": "image/webp"}


class RefusedError(Exception):
    """An answer with an HTTP status other than 200."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": {"message": message, "type": "invalid_request", "code": code}}


@dataclass
class Script:
    """What the server says to each request: an answer in pieces; reply may raise RefusedError before the first.

    A reply that raises ConnectionError midway breaks the stream off; `finish` is why its end came.
    """

    reply: Callable[[dict[str, Any]], Iterator[str]]
    key: str | None = None
    finish: str = "stop"
    requests: list[dict[str, Any]] = field(default_factory=list)


class Handler(SimpleHTTPRequestHandler):
    """Files of the page, and the two calls of the API."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, script: Script) -> None:
        self.script = script
        super().__init__(*args, directory=str(PAGE))

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return super().do_GET()
        try:
            self._check_key()
            self._json(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        except RefusedError as refused:
            self._json(refused.status, refused.body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self._check_key()
            self.script.requests.append(request)
            pieces = self.script.reply(request)
            first = next(pieces, "")
        except RefusedError as refused:
            return self._json(refused.status, refused.body)
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(ConnectionError):  # the script's own, or the reader has gone
            self._stream(first, pieces)

    def _stream(self, first: str, pieces: Iterator[str]) -> None:
        self._event({"role": "assistant", "content": first}, None)
        for piece in pieces:
            self._event({"content": piece}, None)
        self._event({}, self.script.finish)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, delta: dict[str, str], finish: str | None) -> None:
        chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())

    def _check_key(self) -> None:
        if self.script.key and self.headers["Authorization"] != f"Bearer {self.script.key}":
            raise RefusedError(401, "a key is needed", "invalid_api_key")

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(script: Script, port: int = 0) -> Iterator[str]:
    """The page's address while it is served."""
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, script=script))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
