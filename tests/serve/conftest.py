"""A real server on a free port, around the weights that come with the package."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from running import Running

import qvl
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.serve.app import create_app
from qvl.serve.run import serve_here
from qvl.serve.settings import Settings

SHIPPED = Path("src/qvl/assets/tiny")


@pytest.fixture(scope="session")
def loaded() -> QwenVLWithTokenizer:
    return qvl.load(SHIPPED)


@pytest.fixture(scope="module")
def start(loaded: QwenVLWithTokenizer) -> Iterator[Callable[..., Running]]:
    """Start servers with settings of one's own."""
    ended: list[Callable[[], None]] = []

    def begin(**settings: Any) -> Running:
        served, worker = serve_here(loaded, Settings(name="tiny", **settings))
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(served), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)

        def end() -> None:
            server.should_exit = True
            thread.join()
            worker.close()
            listener.close()

        ended.append(end)
        return Running(f"http://127.0.0.1:{listener.getsockname()[1]}", served, worker)

    yield begin
    for end in ended:
        end()


@pytest.fixture(scope="module")
def server(start: Callable[..., Running]) -> Running:
    return start()
