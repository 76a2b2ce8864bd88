"""The paths of the server. Source: OpenAI's API reference, as far as it is about chat."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from qvl.model.config import QwenVLConfig
from qvl.serve.completion import Backend, Completion, Piece, prepare
from qvl.serve.errors import ApiError
from qvl.serve.guard import guard, read_body
from qvl.serve.metrics import Metrics
from qvl.serve.schema import ChatRequest, parse_request
from qvl.serve.settings import Settings
from qvl.text.tokenizer import Tokenizer

log = logging.getLogger("qvl.serve")
REFUSALS = {
    400: "the request does not fit: the error names the field",
    401: "no key, or a wrong one",
    404: "no such model",
    413: "the body is too large",
    429: "too many requests are waiting",
}
REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
    }
}


class Served:
    """What the paths need: who answers, with which model's prompt, within which limits."""

    def __init__(
        self,
        config: QwenVLConfig,
        tokenizer: Tokenizer,
        backend: Backend,
        settings: Settings,
        max_tokens: int,
    ) -> None:
        self.config, self.tokenizer, self.backend, self.settings = config, tokenizer, backend, settings
        self.max_tokens, self.metrics, self.created = max_tokens, Metrics(backend.state), int(time.time())

    async def complete(self, request: Request) -> Response:
        """One chat request."""
        asked = parse_request(await read_body(request, self.settings.max_body_bytes))
        completion = await prepare(asked, self.settings, self.config, self.tokenizer, self.max_tokens)
        pieces = completion.pieces(self.backend, self.tokenizer, self.metrics)
        if not asked.stream:
            await self._until_left(request, _exhaust(pieces))
            return JSONResponse(completion.response(self.settings.name))
        first = await self._until_left(request, anext(pieces))  # what is refused is refused before a stream begins
        return StreamingResponse(self._events(completion, first, pieces), media_type="text/event-stream")

    async def _events(
        self, completion: Completion, first: Piece, rest: AsyncIterator[Piece]
    ) -> AsyncGenerator[str, None]:
        name, begun = self.settings.name, set[int]()
        try:
            async for piece in _chained(first, rest):
                yield _event(completion.chunk(name, piece, first=piece.index not in begun))
                begun.add(piece.index)
            if completion.wants_usage:
                yield _event(completion.chunk(name, None))
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.metrics.gone.inc()
            raise
        except Exception:
            log.exception("an answer broke off")
            yield _event(ApiError(500, "the answer broke off", "internal_error").body())
        finally:
            await rest.aclose()  # type: ignore[attr-defined]

    async def _until_left(self, request: Request, work: Any) -> Any:
        """What `work` gives, unless the client leaves before."""
        task, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.metrics.gone.inc()
                raise ApiError(499, "the client left", "client_left")
            return task.result()
        finally:
            for one in (task, left):
                one.cancel()
            await asyncio.gather(task, left, return_exceptions=True)

    def models(self) -> dict[str, Any]:
        """The one model, in OpenAI's form."""
        model = {"id": self.settings.name, "object": "model", "created": self.created, "owned_by": "qvl"}
        return {"object": "list", "data": [{**model, "max_model_len": self.max_tokens}]}


def create_app(served: Served) -> FastAPI:
    """The server's paths over what is served; closing the backend is the caller's."""
    app = FastAPI(title="qvl", description="Qwen-VL behind OpenAI's chat API", redoc_url=None, docs_url=None)
    app.middleware("http")(guard(served.settings.api_key))
    document = app.openapi

    @app.post(
        "/v1/chat/completions",
        openapi_extra=REQUEST_BODY,
        responses={status: {"description": about} for status, about in REFUSALS.items()},
    )
    async def chat_completions(request: Request) -> Response:
        """An answer, whole or as server-sent events."""
        response = await served.complete(request)
        served.metrics.requests.labels(200).inc()
        return response

    @app.get("/v1/models", responses={401: {"description": REFUSALS[401]}})
    async def models() -> dict[str, Any]:
        """Which model answers."""
        return served.models()

    @app.get("/v1/models/{name:path}", responses={code: {"description": REFUSALS[code]} for code in (401, 404)})
    async def model(name: str) -> dict[str, Any]:
        """The model by its name."""
        if name != served.settings.name:
            raise ApiError(404, f"there is no {name[:64]!r} here, but {served.settings.name!r}", "model_not_found")
        return dict(served.models()["data"][0])

    @app.get("/health", responses={503: {"description": "nobody answers any more"}})
    async def health() -> Response:
        """Whether requests are answered."""
        alive = await asyncio.to_thread(served.backend.check_alive)
        return JSONResponse({"status": "ok" if alive else "down"}, 200 if alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses={401: {"description": REFUSALS[401]}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(served.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        served.metrics.requests.labels(error.status).inc()
        served.metrics.refused.labels(error.code).inc()
        return JSONResponse(error.body(), error.status, {"Retry-After": "1"} if error.status == 429 else None)

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> Response:
        body = ApiError(error.status_code, str(error.detail), "invalid_path").body()
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        served.metrics.requests.labels(500).inc()
        return JSONResponse(ApiError(500, "something went wrong here; the log has it", "internal_error").body(), 500)

    app.openapi = lambda: _document(app, document)  # type: ignore[method-assign]
    app.mount("/", StaticFiles(directory=str(resources.files("qvl.serve") / "page"), html=True), name="page")
    return app


def _document(app: FastAPI, made: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's document with the chat request's schema, which the path reads by itself: errors are OpenAI's then."""
    if app.openapi_schema is None:
        schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        made()["components"]["schemas"] |= schema.pop("$defs") | {"ChatRequest": schema}
    return app.openapi_schema or {}


async def _exhaust(pieces: AsyncIterator[Piece]) -> None:
    async with contextlib.aclosing(pieces):  # type: ignore[type-var]
        async for _ in pieces:
            pass


async def _chained(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
