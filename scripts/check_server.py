"""Throws 1,000 requests at a server, made by schemathesis from the server's own OpenAPI document: none may end in 5xx.

python scripts/check_server.py [MODEL] [--cases 1000]
"""

import argparse
import socket
import sys
import threading
import time
from collections import Counter

import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

import qvl
from qvl.serve.app import create_app
from qvl.serve.run import serve_here
from qvl.serve.schema import ChatRequest
from qvl.serve.settings import Settings

CHAT = "/v1/chat/completions"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="src/qvl/assets/tiny")
    parser.add_argument("--cases", type=int, default=1000)
    args = parser.parse_args()
    served, worker = serve_here(qvl.load(args.model), Settings(name="tiny", max_new_tokens=8))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(served), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        seen = throw(f"http://127.0.0.1:{listener.getsockname()[1]}", args.cases)
        server.should_exit = True
        thread.join()
    worker.close()
    print(f"{seen.total()} requests: " + ", ".join(f"{status}: {count}" for status, count in sorted(seen.items())))
    return 1 if any(status >= 500 for status in seen) else 0


def throw(url: str, cases: int) -> Counter[int]:
    """How often each status came: nine tenths of the requests go to the chat, half of those break the document."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen: Counter[int] = Counter()
    for operation in [found.ok() for found in schema.get_all_operations()]:
        if operation.path == CHAT:
            for mode in GenerationMode:
                throw_at(operation, mode, cases * 9 // 20, url, seen)
        else:
            throw_at(operation, GenerationMode.POSITIVE, cases // 10, url, seen)
    return seen


def throw_at(
    operation: schemathesis.APIOperation, mode: GenerationMode, cases: int, url: str, seen: Counter[int]
) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    def call(case: schemathesis.Case) -> None:
        if case.path == CHAT and mode is GenerationMode.POSITIVE:  # as far as the model
            known = {name: value for name, value in case.body.items() if name in ChatRequest.model_fields}
            case.body = {**known, "model": "tiny"}
        response = case.call(base_url=url, timeout=60)
        seen[response.status_code] += 1
        if response.status_code >= 500:
            print(f"{response.status_code}: {case.method} {case.path} {case.body!r:.2000}", file=sys.stderr)

    call()


if __name__ == "__main__":
    sys.exit(main())
