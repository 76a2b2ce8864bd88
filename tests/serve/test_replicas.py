"""Two replicas behind one address, one of them killed while both answer: nobody notices.

The model is untrained: its answers are long.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

import qvl
from qvl.generate.sampling import SamplingConfig

QUESTIONS = [f"Tell me about the number {number}." for number in range(12)]
TOKENS = 300


@pytest.fixture(scope="module")
def running(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address and process of `qvl serve --replicas 2`, as a user starts it."""
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "qvl", "serve", "--replicas", "2", "--port", str(port), "--name", "tiny"]
    command += ["--model", str(checkpoint_dir), "--dtype", "float32", "--max-rows", "4"]
    variables = {**os.environ, "RAY_ADDRESS": "local"}  # other tests' clusters are near
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=variables)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if server.poll() is not None:
            pytest.fail(log.read_text())
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.2)
    yield url, server.pid
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 143, log.read_text()
    assert replicas(server.pid) == []


def replicas(server: int) -> list[int]:
    """The processes with a model that a server's own Ray has."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
    own = {pid for pid, parent, _ in rows if parent == str(server)}
    return [int(pid) for pid, parent, named in rows if parent in own and named.startswith("ray::ServeReplica")]


def answer(address: str, question: str, chunks: list[str] | None = None) -> tuple[str, str]:
    """A long answer, drawn with a seed, and how it ended; its pieces are added to chunks as they come."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": question}],
        max_tokens=TOKENS,
        temperature=1.0,
        seed=7,
        stream=True,
    )
    text, finish = "", ""
    for chunk in stream:
        text += (piece := chunk.choices[0].delta.content or "")
        if chunks is not None:
            chunks.append(piece)
        finish = chunk.choices[0].finish_reason or finish
    return text, finish


def test_a_killed_replica_loses_nothing(running: tuple[str, int], checkpoint_dir: Path) -> None:
    """Twelve answers under way, a model's process killed: all twelve end, and say what one model says."""
    address, server = running
    before = replicas(server)
    assert len(before) == 2
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        chunks: list[str] = []
        asked = [pool.submit(answer, address, question, chunks) for question in QUESTIONS]
        while len(chunks) < TOKENS:
            time.sleep(0.01)
        os.kill(before[0], signal.SIGKILL)
        assert sum(one.done() for one in asked) < len(asked) / 2, "killed under load"
        answers = [one.result() for one in asked]
    loaded = qvl.load(checkpoint_dir)
    for question, (text, finish) in zip(QUESTIONS, answers, strict=True):
        own = loaded.chat(
            [{"role": "user", "content": question}],
            max_new_tokens=TOKENS,
            sampling=SamplingConfig(temperature=1.0),
            seed=7,
        )
        assert (text, finish) == (own.text, own.finish)
    for _ in range(300):  # and another one takes its place
        if len(set(replicas(server)) - {before[0]}) == 2:
            break
        time.sleep(0.2)
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert "qvl_running 0.0" in httpx.get(f"{address}/metrics").text
    assert answer(address, QUESTIONS[0]) == answers[0]


def test_what_a_replica_refuses_is_the_client_s(running: tuple[str, int]) -> None:
    client = openai.OpenAI(base_url=f"{running[0]}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="do not fit"):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "word " * 9000}], max_tokens=20
        )
