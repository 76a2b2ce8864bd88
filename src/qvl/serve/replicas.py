"""Several models behind one address: Ray Serve starts them, watches them, and shares the requests out.

A request that is under way on a replica that dies is asked again of another one, with the same seed; what the client
has already is not sent twice.
"""

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import ray
import torch
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve._private.common import ReplicaState
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from qvl.checkpoint.layout import load_config
from qvl.errors import QvlError
from qvl.generate.engine import Engine
from qvl.generate.loaded import QwenVLWithTokenizer
from qvl.generate.request import Request, Step
from qvl.serve.app import Served
from qvl.serve.errors import ApiError, BusyError
from qvl.serve.run import run
from qvl.serve.settings import Settings
from qvl.serve.worker import Worker
from qvl.text.tokenizer import Tokenizer

log = logging.getLogger("qvl.serve")
NAME = "qvl"
GONE = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)  # the replica is, or all of them are
ATTEMPTS, WAIT_S = 30, 1.0  # a replica that starts anew has so long until a request is given up
HEALTH_S = 2.0


class Replica:
    """One engine in a process of its own."""

    def __init__(self, load: Callable[[], QwenVLWithTokenizer], settings: Settings, threads: int) -> None:
        torch.set_num_threads(threads)
        engine = Engine(load().model, max_rows=settings.max_rows, max_tokens=settings.max_tokens)
        self.worker = Worker(engine, settings.max_waiting)

    async def steps(self, request: Request) -> AsyncGenerator[Step, None]:
        """As Worker.steps."""
        async with aclosing(self.worker.steps(request)) as steps:
            async for step in steps:
                yield step

    async def max_tokens(self) -> int:
        """Of prompt and answer together."""
        return self.worker.engine.max_tokens

    def check_health(self) -> None:
        """Ray Serve starts the replica anew when this raises."""
        if not self.worker.check_alive():
            raise RuntimeError("the engine's thread has ended")


class Replicas:
    """A backend that asks `count` replicas; each takes as many requests as a server of its own would."""

    def __init__(self, load: Callable[[], QwenVLWithTokenizer], settings: Settings, count: int, device: str) -> None:
        if not ray.is_initialized():
            terminated = signal.getsignal(signal.SIGTERM)
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
            signal.signal(signal.SIGTERM, terminated)  # Ray's own would leave with another exit code
        serve.start(proxy_location="Disabled")
        threads = max(1, (os.cpu_count() or 1) // count)
        resources = {"num_gpus": 1, "num_cpus": 0} if device.startswith("cuda") else {"num_cpus": threads}
        deployment = serve.deployment(
            name=NAME,
            num_replicas=count,
            max_ongoing_requests=settings.max_rows + settings.max_waiting,
            max_queued_requests=settings.max_waiting,
            ray_actor_options=resources,
            health_check_period_s=HEALTH_S,
        )(Replica)
        self._handle = serve.run(deployment.bind(load, settings, threads), name=NAME, route_prefix=None)
        self._stream = self._handle.options(method_name="steps", stream=True)
        self.max_tokens: int = self._handle.max_tokens.remote().result()
        self._open = 0

    async def steps(self, request: Request) -> AsyncGenerator[Step, None]:
        """As Worker.steps, from whichever replica."""
        if request.seed is None:
            request = replace(request, seed=secrets.randbits(63))
        given = 0
        self._open += 1
        try:
            for _ in range(ATTEMPTS):
                stream = self._stream.remote(request)
                try:
                    place = 0
                    async for step in stream:  # type: ignore[union-attr]
                        if place >= given:
                            given += 1
                            yield step
                        place += 1
                    return
                except GONE as error:
                    log.warning("a replica is gone after %d tokens, asking another: %s", given, type(error).__name__)
                    await asyncio.sleep(WAIT_S)
                except BackPressureError as error:
                    raise BusyError("all replicas are busy; try again later") from error
                except RayTaskError as error:
                    raise error.cause if isinstance(error.cause, QvlError) else error from None
                finally:
                    stream.cancel()  # frees the row where the client has left
        finally:
            self._open -= 1
        raise ApiError(503, "no replica answers", "no_replica")

    def check_alive(self) -> bool:
        """Whether a replica runs."""
        applications = serve.status().applications
        deployments = applications[NAME].deployments if NAME in applications else {}
        return any(one.replica_states.get(ReplicaState.RUNNING, 0) for one in deployments.values())

    def state(self) -> dict[str, float]:
        """Requests under way on all of them."""
        return {"running": self._open}

    def close(self) -> None:
        """End the replicas."""
        serve.shutdown()
        ray.shutdown()


def run_replicas(
    folder: Path, load: Callable[[], QwenVLWithTokenizer], settings: Settings, count: int, device: str
) -> None:
    """Serve from `count` processes that each load the folder, one GPU each where device is one; load: picklable."""
    config, tokenizer = load_config(folder), Tokenizer.from_dir(folder)
    replicas = Replicas(load, settings, count, device)
    try:
        run(Served(config, tokenizer, replicas, settings, replicas.max_tokens), f"{count} replicas")
    finally:
        replicas.close()
