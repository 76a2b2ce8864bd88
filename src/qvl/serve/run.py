"""A loaded model behind uvicorn, until it is told to stop: then requests that run are finished."""

import logging

import uvicorn

from qvl.generate.engine import Engine
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.serve.app import Served, create_app
from qvl.serve.settings import Settings
from qvl.serve.worker import Worker

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
        run(served, loaded.kernels)
    finally:
        worker.close()


def run(served: Served, kernels: str) -> None:
    """Serve until SIGINT or SIGTERM; kernels: what is said of the model."""
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
