"""An OpenAI-compatible server on this machine around a model in this process, and one that says what it is told."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qvl.evaluate.answering import LocalModel
from qvl.evaluate.benchmarks import Decoding
from qvl.evaluate.items import Item
from qvl.text.markup import Image, Segment, Text
from qvl.text.render import DIALOGUE, RoleTurn

Reply = Callable[[dict[str, Any]], str]


@contextmanager
def serving(reply: Reply) -> Iterator[str]:
    """The address of a server whose chat completions are what `reply` makes of the request; an exception is a 500."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, said = 200, reply(request)
            except ConnectionError as error:
                status, said = 500, str(error)
            message = {"role": "assistant", "content": said}
            body: dict[str, Any] = {"error": {"message": said}}
            if status == 200:
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                body = {"id": "1", "object": "chat.completion", "created": 0, "choices": [choice]}
                body["model"] = request["model"]
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answered_by(model: LocalModel) -> Reply:
    """What the model says to the messages, its pictures out of their data URLs."""
    lock = threading.Lock()

    def reply(request: dict[str, Any]) -> str:
        pictures: list[bytes] = []
        turns: list[RoleTurn] = []
        for message in request["messages"]:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            segments: list[Segment] = []
            for part in parts:
                if part["type"] == "image_url":
                    segments.append(Image(len(pictures)))
                    pictures.append(base64.b64decode(part["image_url"]["url"].partition(",")[2]))
                else:
                    segments.append(Text(part["text"]))
            turns.append((message["role"], tuple(segments)))
        item = Item("asked", tuple(pictures), tuple(turns), DIALOGUE, None)
        with lock:
            [[(_, said)]] = list(model.answers([item], Decoding(request["max_tokens"])))
        return said.answer

    return reply
