"""The thread that owns an engine: requests go in, their steps come out, wherever they were asked from."""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from qvl.errors import QvlError
from qvl.generate.engine import Engine
from qvl.generate.request import Request, Step
from qvl.serve.errors import BusyError

log = logging.getLogger("qvl.serve")


@dataclass(eq=False)
class _Ticket:
    """One request between the two threads."""

    request: Request
    deliver: Callable[[Step | Exception], None]
    id: int | None = None


class Worker:
    """Answers requests with continuous batching; more than max_waiting of them wait for no row."""

    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine = engine
        self._room = engine.max_rows + max_waiting
        self._inbox: queue.SimpleQueue[tuple[str, _Ticket | None]] = queue.SimpleQueue()
        self._open = 0  # requests that are not answered yet
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="qvl-engine", daemon=True)
        self._thread.start()

    @property
    def num_open(self) -> int:
        """Requests that run or wait."""
        return self._open

    def check_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive()

    async def steps(self, request: Request) -> AsyncGenerator[Step, None]:
        """The steps of a request, the last with its `finish`. Closing it early frees its row.

        BusyError when there is no room, before anything; what the engine says against the request, as the first.
        """
        with self._lock:
            if self._open >= self._room:
                raise BusyError(f"{self._open} requests are under way or waiting; try again later")
            self._open += 1
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Step | Exception]()

        def deliver(event: Step | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        ticket = _Ticket(request, deliver)
        self._inbox.put(("add", ticket))
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if event.finish is not None:
                    return
        finally:
            self._inbox.put(("cancel", ticket))
            with self._lock:
                self._open -= 1

    def close(self) -> None:
        """End the thread after the step that it is in."""
        self._inbox.put(("close", None))
        self._thread.join()

    def _work(self) -> None:
        tickets: dict[int, _Ticket] = {}
        while self._take(tickets):
            try:
                steps = self.engine.step()
            except Exception as error:
                log.exception("the engine failed at a step; the requests that ran are lost")
                self._fail(tickets, error)
                continue
            for step in steps:
                if (ticket := tickets.get(step.request_id)) is not None:
                    ticket.deliver(step)
                    if step.finish is not None:
                        del tickets[step.request_id]

    def _take(self, tickets: dict[int, _Ticket]) -> bool:
        """Everything in the inbox, waiting for it when there is nothing to do; False to end."""
        while not self._inbox.empty() or not self.engine.has_work:
            kind, ticket = self._inbox.get()
            if ticket is None:
                return False
            if kind == "cancel":
                if ticket.id is not None:
                    self.engine.cancel(ticket.id)
                    tickets.pop(ticket.id, None)
                continue
            try:
                ticket.id = self.engine.add(ticket.request)
                tickets[ticket.id] = ticket
            except QvlError as error:
                ticket.deliver(error)
        return True

    def _fail(self, tickets: dict[int, _Ticket], error: Exception) -> None:
        for request_id, ticket in tickets.items():
            self.engine.cancel(request_id)
            ticket.deliver(error)
        tickets.clear()

    def state(self) -> dict[str, float]:
        """What the metrics show of the engine."""
        engine = self.engine
        return {
            "running": engine.num_running,
            "waiting": max(0, self._open - engine.num_running),
            "image_hits": engine.features.hits,
            "image_misses": engine.features.misses,
            "shared_tokens": engine.shared_tokens,
        }
