"""A model behind any server that speaks OpenAI's chat API: one request, and many at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from qvl.errors import DataError, MissingDependencyError, QvlError, UsageError

Message = dict[str, Any]
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
RETRIES, TIMEOUT_S = 5, 600


@dataclass(frozen=True)
class Server:
    """Where it is (https://HOST/v1), which of its models answers, and how many requests it gets at once."""

    url: str
    model: str
    key: str = "none"
    concurrency: int = 8


class RefusedError(UsageError):
    """The server is there and does not answer this request; `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ChatServer:
    """The client of a server. MissingDependencyError without the library it takes."""

    def __init__(self, server: Server) -> None:
        try:
            self._openai: Any = import_module("openai")
        except ImportError as error:
            raise MissingDependencyError("--server needs the openai client: pip install 'qvl[llm]'") from error
        self.server = server
        self._client = self._openai.OpenAI(
            base_url=server.url, api_key=server.key, max_retries=RETRIES, timeout=TIMEOUT_S
        )

    def say(self, messages: Sequence[Message], temperature: float, **settings: Any) -> str:
        """One reply, "" where it is empty. RefusedError where the server refuses, DataError where it can't be
        reached."""
        server = self.server
        try:
            answer = self._client.chat.completions.create(
                model=server.model, messages=messages, temperature=temperature, **settings
            )
        except self._openai.APIConnectionError as error:
            raise DataError(f"{server.url}: no answer ({error}); give the same command again to go on") from error
        except self._openai.APIStatusError as error:
            message = f"{server.url}: refused the request ({error.status_code}: {error.message})"
            raise RefusedError(message, error.status_code) from error
        return (answer.choices[0].message.content if answer.choices else None) or ""


def ask_all(asked: Iterable[Asked], ask: Callable[[Asked], Answer], at_once: int) -> Iterator[tuple[Asked, Answer]]:
    """What was asked with its answer, as answers come. At the first QvlError nothing more is asked; it is raised when
    the answers that were under way have been given, so that none is lost."""
    failed: QvlError | None = None
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(ask, one): one for one in asked}
        for future in as_completed(futures):
            if future.cancelled():
                continue
            if isinstance(error := future.exception(), QvlError):
                failed = failed or error
                for other in futures:
                    other.cancel()
                continue
            yield futures[future], future.result()
    if failed:
        raise failed
