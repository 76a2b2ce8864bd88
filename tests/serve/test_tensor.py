"""One model on two ranks, as a user starts it: it says what one process says."""

import base64
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from qvl.checkpoint import load_model
from qvl.errors import UsageError
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.quantize.layout import to_int4
from qvl.serve.tensor import share_out

PICTURE = "examples/picture.png"
QUESTIONS = ["Find the yellow house.", "What colour is the house?", "Describe the picture.", "房子是什么颜色的？"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    command = [sys.executable, "-m", "qvl", "serve", "--tensor", "2", "--port", str(port), "--name", "tiny"]
    command += ["--model", "src/qvl/assets/tiny", "--dtype", "float32", "--max-rows", "3"]
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if server.poll() is not None:
            pytest.fail(log.read_text())
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.TransportError:
            time.sleep(0.2)
    yield url
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 143, log.read_text()
    assert "2 ranks" in log.read_text()


def messages(question: str) -> list[dict[str, Any]]:
    shown = {"type": "image_url", "image_url": {"url": data_uri()}}
    return [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]


def data_uri() -> str:

    return f"data:image/png;base64,{base64.b64encode(Path(PICTURE).read_bytes()).decode()}"


def test_answers_at_once_are_those_of_one_process(address: str, loaded: QwenVLWithTokenizer) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)

    def ask(question: str) -> str | None:
        made = client.chat.completions.create(model="tiny", messages=messages(question), max_tokens=40)  # type: ignore[arg-type]
        return made.choices[0].message.content

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, QUESTIONS))
    assert found == [loaded.chat(messages(question), max_new_tokens=40).text for question in QUESTIONS]
    assert "<box>" in (found[0] or "")


def test_clients_that_leave_and_mistakes_disturb_nobody(address: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
    with pytest.raises(openai.BadRequestError, match="do not fit"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a " * 9000}])
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=500, temperature=2, stream=True
    )
    next(iter(stream))
    stream.close()
    made = client.chat.completions.create(model="tiny", messages=messages(QUESTIONS[0]), max_tokens=40)  # type: ignore[arg-type]
    assert "<box>" in (made.choices[0].message.content or "")


def test_what_can_not_be_shared_is_named(checkpoint_dir: Path) -> None:
    with pytest.raises(UsageError, match="4 heads and 704 channels can't be shared evenly"):
        share_out(load_model(checkpoint_dir), 0, 3)
    model = load_model(checkpoint_dir)
    to_int4(model)
    with pytest.raises(UsageError, match="this checkpoint's are quantised"):
        share_out(model, 0, 2)


def test_parts_hold_their_heads_alone(checkpoint_dir: Path) -> None:
    whole = load_model(checkpoint_dir)
    parts = [load_model(checkpoint_dir) for _ in range(2)]
    for rank, model in enumerate(parts):
        share_out(model, rank, 2)
    x = torch.randn(1, 5, 256)
    blocks = [model.language.blocks[0] for model in parts]
    q, k, v = whole.language.blocks[0].c_attn(x).chunk(3, dim=-1)
    for rank, block in enumerate(blocks):
        wanted = torch.cat([one.chunk(2, dim=-1)[rank] for one in (q, k, v)], dim=-1)
        torch.testing.assert_close(block.c_attn(x), wanted)
    halves = x.chunk(2, dim=-1)
    summed = sum(block.attn_c_proj.part(half) for block, half in zip(blocks, halves, strict=True))
    torch.testing.assert_close(summed, whole.language.blocks[0].attn_c_proj(x))
