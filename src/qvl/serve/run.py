"""A loaded model behind uvicorn, until it is told to stop: then requests that run are finished."""

import logging
from collections.abc import Callable
from pathlib import Path

import uvicorn

from qvl.checkpoint.layout import load_config
from qvl.generate.engine import Engine
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.serve.app import Served, create_app
from qvl.serve.settings import Settings
from qvl.serve.worker import Worker
from qvl.text.tokenizer import Tokenizer

SHUTDOWN_S = 30


def serve_here(loaded: QwenVLWithTokenizer, settings: Settings) -> tuple[Served, Worker]:
    """One engine in this process. UsageError for a max_tokens that the model does not have."""
    engine = Engine(loaded.model, max_rows=settings.max_rows, max_tokens=settings.max_tokens)
    worker = Worker(engine, settings.max_waiting)
    served = Served(loaded.model.config, loaded.tokenizer, worker, settings, engine.max_tokens)
    return served, worker


def run_here(loaded: QwenVLWithTokenizer, settings: Settings) -> None:
    """Serve from this process until SIGINT or SIGTERM."""
    served, worker = serve_here(loaded, settings)
    try:
        _run(served, loaded.kernels)
    finally:
        worker.close()


def run_replicas(
    folder: Path, load: Callable[[], QwenVLWithTokenizer], settings: Settings, count: int, device: str
) -> None:
    """Serve from `count` processes that each load the folder, one GPU each where device is one; see qvl.serve.replicas.

    load must be picklable.
    """
    from qvl.serve.replicas import Replicas

    config, tokenizer = load_config(folder), Tokenizer.from_dir(folder)
    replicas = Replicas(load, settings, count, device)
    try:
        _run(Served(config, tokenizer, replicas, settings, replicas.max_tokens), f"{count} replicas")
    finally:
        replicas.close()


def _run(served: Served, kernels: str) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    settings = served.settings
    where = f"http://{settings.host}:{settings.port}"
    key = "clients need the key" if settings.api_key else "no key is asked for"
    print(f"{settings.name}: {kernels}\n{where} (the page), {where}/v1 (OpenAI's API), {key}", flush=True)
    uvicorn.run(
        create_app(served),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
