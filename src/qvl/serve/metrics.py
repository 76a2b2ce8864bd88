"""Prometheus metrics of one server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STATE = {
    "running": "requests that have a row",
    "waiting": "requests that wait for a row",
    "image_hits": "pictures whose features were there already",
    "image_misses": "pictures that were encoded",
    "shared_tokens": "tokens of prompts that were not read again",
}


class Metrics:
    """state: gives numbers of _STATE, always the same ones, when they are asked for."""

    def __init__(self, state: Callable[[], dict[str, float]]) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "chat requests by HTTP status", ["status"])
        self.refused = self._counter("refused", "requests that were refused, by reason", ["reason"])
        self.gone = self._counter("disconnected", "requests whose client left before the end")
        self.prompt_tokens = self._counter("prompt_tokens", "tokens of prompts")
        self.answer_tokens = self._counter("answer_tokens", "tokens of answers")
        self.first_token = self._histogram("first_token_seconds", "from the request to the first token")
        self.between_tokens = self._histogram("between_tokens_seconds", "between two tokens of an answer")
        for name in state():
            gauge = Gauge(f"qvl_{name}", _STATE[name], registry=self._registry)
            gauge.set_function(lambda name=name: state()[name])  # type: ignore[misc]

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"qvl_{name}", about, labels or [], registry=self._registry)

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(f"qvl_{name}", about, buckets=SECONDS, registry=self._registry)
