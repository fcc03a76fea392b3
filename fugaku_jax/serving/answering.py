"""How an answer reaches a client, whole or piece by piece, as long as it is there and has time."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from fugaku_jax.serving.refusals import Refusal

Result = TypeVar("Result")


class ClientGone(Exception):
    """Nobody reads the answer any more."""


async def while_there(
    receive: Receive, work: Coroutine[Any, Any, Result], seconds: float
) -> Result:
    """Return what work gives, unless the client goes or time runs out; then the work is cancelled.

    Args:
        receive: tells of the client, whose body has been read.
        work: what is done for it.
        seconds: that it may take.

    Raises:
        ClientGone: the client has gone.
        Refusal: time has run out.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    doing, watching = asyncio.create_task(work), asyncio.create_task(gone())
    both = {doing, watching}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED, timeout=seconds)
        if doing.done():
            return doing.result()
        if watching.done():
            raise ClientGone
        raise Refusal(504, f"The answer took more than {seconds:g} seconds.", "timeout")
    finally:
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)


class EventStream(Response):
    """Server-sent events, the last of them `[DONE]`, as OpenAI's clients read them."""

    media_type = "text/event-stream"

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        events: AsyncIterator[BaseModel],
        seconds: float,
    ) -> None:
        """Args: what is left when the stream ends; the events; what all of it may take."""
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._stack, self._events, self._seconds = stack, events, seconds

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        async with self._stack:
            with contextlib.suppress(ClientGone):
                try:
                    await while_there(receive, self._all(send), self._seconds)
                except Refusal as refusal:  # the status has been sent, so it is an event
                    await self._send(send, json.dumps(refusal.body))
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for event in self._events:
            await self._send(send, event.model_dump_json())
        await self._send(send, "[DONE]")

    async def _send(self, send: Send, data: str) -> None:
        body = f"data: {data}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
