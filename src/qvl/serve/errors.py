"""Errors in OpenAI's shape."""

from typing import Any

from qvl.errors import QvlError


class ApiError(QvlError):
    """What a request gets instead of an answer. status: HTTP's; param: the field that it is about."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class BusyError(QvlError):
    """No room for one more request."""
