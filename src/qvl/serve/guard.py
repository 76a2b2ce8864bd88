"""What stands before every path: the key, the headers, and a bound on bodies."""

import hmac
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qvl.serve.errors import ApiError

# The page is ours alone: no script, style or picture from anywhere else, no frame around it.
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PROTECTED = ("/v1", "/metrics", "/docs", "/openapi.json")


def guard(api_key: str | None) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Middleware. The page itself needs no key: it asks for one."""

    async def check(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if api_key and request.url.path.startswith(PROTECTED) and not _has_key(request, api_key):
            error = ApiError(401, "the API key is missing or wrong: Authorization: Bearer KEY", "invalid_api_key")
            response: Response = JSONResponse(error.body(), 401, {"WWW-Authenticate": "Bearer"})
        else:
            response = await go_on(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return check


def _has_key(request: Request, api_key: str) -> bool:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode("latin-1"), api_key.encode())


async def read_body(request: Request, max_bytes: int) -> bytes:
    """ApiError 413 as soon as there is more, whatever the headers say."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise ApiError(413, f"the body has more than {max_bytes:,} bytes", "body_too_large")
    return bytes(data)
