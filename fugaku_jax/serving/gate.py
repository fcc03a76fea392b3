"""What is looked at before a request is: who asks, how large its body is, whether that is JSON."""

import asyncio
import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json
from fugaku_jax.serving.limits import Limits
from fugaku_jax.serving.refusals import Refusal, invalid

OPEN_PATHS = frozenset({"/", "/health", "/openapi.json"})
"""What is answered without a key."""
_BODY_SECONDS = 30.0
"""What a body may take to come."""


class Gate:
    """An ASGI application around another: no more of a request is held than the limits say."""

    def __init__(self, app: ASGIApp, limits: Limits, api_key: str | None) -> None:
        """Args: what answers; what is taken at most; what a request must carry, None for nothing.

        The key is that of an `Authorization: Bearer` header, compared in constant time.
        """
        self._app, self._limits = app, limits
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = dict(scope["headers"])
            if scope["path"] not in OPEN_PATHS:
                self._check_key(headers)
            body = await self._body(headers, receive)
            if body:
                parse_json(body, "The body")
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except InputError as error:
            await invalid(str(error), code="invalid_json").response()(scope, receive, send)
        except ConnectionResetError:
            return
        else:
            await self._app(scope, _after(body, receive), send)

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        given = headers.get(b"authorization", b"")
        if self._key is not None and not hmac.compare_digest(given, self._key):
            raise Refusal(401, "The API key is missing or wrong.", "invalid_api_key")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self._limits.body_bytes
        said = headers.get(b"content-length", b"0")
        refusal = Refusal(413, f"The body has more than {most:,} bytes.", "body_too_large")
        if said.isdigit() and int(said) > most:
            raise refusal
        parts, size = [], 0
        try:
            async with asyncio.timeout(min(_BODY_SECONDS, self._limits.timeout_seconds)):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionResetError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise refusal
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, "The body did not come in time.", "timeout") from None


def _after(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
