"""What a request is refused with, in the shape that OpenAI's clients read.

Source: https://platform.openai.com/docs/guides/error-codes
"""

from collections.abc import Mapping

from fastapi.responses import JSONResponse
from pydantic import BaseModel


class RefusalDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class RefusalBody(BaseModel):
    """The body of every answer that is not 2xx."""

    error: RefusalDetail


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: a sentence.
        code: a word that programs can look for.
        param: which field of the request, if one.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """What the client reads."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else _INVALID)
        detail = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": detail}

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body, self.status, self.headers)


_INVALID = "invalid_request_error"
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """Return what a request is refused with that is wrong in itself."""
    return Refusal(400, message, code, param)


def too_many(message: str) -> Refusal:
    """Return what a request is refused with that could be taken later."""
    return Refusal(429, message, "too_many_requests", headers={"Retry-After": "1"})
