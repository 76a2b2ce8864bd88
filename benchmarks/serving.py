"""`qvl serve` under load, by the official client: seconds to the first token, tokens/s, and the server's memory.

    python benchmarks/serving.py [--model FOLDER] [--clients 32] [--requests 2000] > benchmarks/serving.txt

The server is a process of its own. First one client alone, then CLIENTS at once, each asking question after question:
half of them about a picture (eight different ones), half without; every tenth answer is drawn with a seed.
"""

import argparse
import base64
import io
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
from PIL import Image

from qvl.data.world.tasks import make_sample

TOKENS = 40
PICTURES = 8
ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="src/qvl/assets/tiny")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "qvl", "serve", "--port", str(port), "--name", "m", "--model", args.model]
    server = subprocess.Popen([*command, "--max-rows", str(ROWS)], stdout=subprocess.DEVNULL)
    try:
        measure(f"http://127.0.0.1:{port}", server.pid, args.clients, args.requests)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def measure(url: str, pid: int, clients: int, requests: int) -> None:
    while True:
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.TransportError:
            time.sleep(0.1)
    print(f"{os.cpu_count()} cores, {ROWS} rows, answers of at most {TOKENS} tokens", flush=True)
    pictures = [data_uri(number) for number in range(PICTURES)]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)
    load(client, pictures, 1, 50)  # warm
    say("1 client", load(client, pictures, 1, 100))
    parts = 4
    for part in range(parts):
        say(f"{clients} clients", load(client, pictures, clients, requests // parts, part))
        print(f"  memory after {(part + 1) * requests // parts} requests: {resident(pid) / 1e6:.0f} MB", flush=True)


def load(client: openai.OpenAI, pictures: list[str], clients: int, requests: int, seed: int = 0) -> dict[str, Any]:
    """First tokens' seconds, and tokens/s of all; any error ends the benchmark."""
    chance, lock, firsts, tokens = random.Random(seed), threading.Lock(), list[float](), [0]
    asked = [(chance.choice([None, *pictures]) if chance.random() < 0.5 else None, n) for n in range(requests)]

    def ask(one: tuple[str | None, int]) -> None:
        picture, number = one
        parts: list[Any] = [{"type": "text", "text": f"What colour is the house? {number % 50}"}]
        if picture:
            parts.insert(0, {"type": "image_url", "image_url": {"url": picture}})
        begun, first = time.perf_counter(), None
        stream = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": parts}],
            max_tokens=TOKENS,
            temperature=1.0 if number % 10 == 0 else 0.0,
            seed=number,
            stream=True,
            stream_options={"include_usage": True},
        )
        count = 0
        for chunk in stream:
            first = first or time.perf_counter() - begun
            count = chunk.usage.completion_tokens if chunk.usage else count
        with lock:
            firsts.append(first or 0.0)
            tokens[0] += count

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, asked))
    seconds = time.perf_counter() - begun
    return {"firsts": firsts, "requests/s": requests / seconds, "tokens/s": tokens[0] / seconds}


def say(name: str, found: dict[str, Any]) -> None:
    cuts = statistics.quantiles(found["firsts"], n=100)
    print(
        f"{name}: {len(found['firsts'])} requests, no error; first token p50 {1e3 * cuts[49]:.0f} ms, "
        f"p99 {1e3 * cuts[98]:.0f} ms; {found['requests/s']:.1f} requests/s, {found['tokens/s']:.0f} tokens/s",
        flush=True,
    )


def data_uri(number: int) -> str:
    picture = Image.open(io.BytesIO(make_sample(1, "test", number, "vqa", "en").images[0]))
    out = io.BytesIO()
    picture.convert("RGB").save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


if __name__ == "__main__":
    main()
