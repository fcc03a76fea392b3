"""The server as an ASGI application: its endpoints, and what is refused before they are reached."""

import asyncio
import base64
import hashlib
import re
from contextlib import AsyncExitStack
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from fugaku_jax.errors import InputError
from fugaku_jax.serving.answering import ClientGone, EventStream, while_there
from fugaku_jax.serving.chats import Chatting
from fugaku_jax.serving.completions import Completing
from fugaku_jax.serving.engine_thread import failed
from fugaku_jax.serving.gate import OPEN_PATHS, Gate
from fugaku_jax.serving.metrics import Counted
from fugaku_jax.serving.refusals import Refusal, RefusalBody, invalid
from fugaku_jax.serving.requests import ChatRequest, CompletionRequest, Strict
from fugaku_jax.serving.responses import (
    ChatCompletion,
    Completion,
    Health,
    ModelCard,
    ModelList,
)
from fugaku_jax.serving.service import Service
from fugaku_jax.tracing.matches import TracedText

LONGEST_TRACED = 20_000
"""Most characters of a text that is traced."""
_REFUSED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": RefusalBody, "description": "The request is wrong, or cannot be taken now."},
    "5XX": {"model": RefusalBody, "description": "It cannot be answered."},
}
_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


class TraceRequest(Strict):
    """A text to find in the training data."""

    text: Annotated[str, Field(max_length=LONGEST_TRACED)]


def make_app(service: Service, api_key: str | None) -> ASGIApp:
    """Return the application.

    Args:
        service: what answers.
        api_key: what a request must carry, None for nothing.
    """
    app = FastAPI(
        title="fugaku_jax", version="1", docs_url=None, redoc_url=None, responses=_REFUSED
    )
    _add_errors(app)
    _add_reading(app, service)
    _add_answering(app, service)
    _add_tracing(app, service)
    _describe(app, service, api_key)
    paths = frozenset(app.openapi()["paths"]) | OPEN_PATHS
    return Counted(Gate(app, service.limits, api_key), service.metrics, paths)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(ClientGone)
    async def gone(_: Request, __: ClientGone) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(InputError)
    async def wrong(_: Request, error: InputError) -> Response:
        return invalid(str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(each) for each in first["loc"] if each != "body")
        return invalid(f"{field or 'The body'}: {first['msg']}.", field or None).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return Refusal(error.status_code, str(error.detail), headers=error.headers).response()

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return Refusal(500, "The server has failed; its log says how.").response()


def _add_reading(app: FastAPI, service: Service) -> None:
    page = (resources.files("fugaku_jax.serving") / "page.html").read_text("utf-8")
    policy = _policy(page)

    @app.get("/", response_class=HTMLResponse)
    async def talk() -> Response:
        """The page to talk on."""
        return HTMLResponse(page, headers=policy)

    @app.get("/health")
    async def health() -> Health:
        """Whether requests are taken."""
        if not service.thread.alive:
            raise failed()
        return Health()

    @app.get("/metrics", response_class=Response, responses=_METRICS)
    async def metrics() -> Response:
        """Figures, as Prometheus reads them."""
        text = generate_latest(service.metrics.registry)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The model that is served."""
        longest = service.thread.engine.positions
        card = ModelCard(id=service.name, created=service.created, max_model_len=longest)
        return ModelList(data=[card])


def _add_answering(app: FastAPI, service: Service) -> None:
    async def answer(asked: Completing | Chatting, request: Request, stream: bool | None) -> Any:
        seconds = service.limits.timeout_seconds
        if not stream:
            return await while_there(request.receive, asked.whole(), seconds)
        async with AsyncExitStack() as stack:
            events = await while_there(request.receive, asked.events(stack), seconds)
            return EventStream(stack.pop_all(), events, seconds)

    @app.post("/v1/completions", responses=_STREAMED)
    async def completions(asked: CompletionRequest, request: Request) -> Completion:
        """Let prompts go on."""
        service.check_model(asked.model)
        return await answer(await Completing.begin(service, asked), request, asked.stream)

    @app.post("/v1/chat/completions", responses=_STREAMED)
    async def chat_completions(asked: ChatRequest, request: Request) -> ChatCompletion:
        """Say what comes next in a dialogue."""
        service.check_model(asked.model)
        return await answer(await Chatting.begin(service, asked), request, asked.stream)


def _add_tracing(app: FastAPI, service: Service) -> None:
    one_at_a_time = asyncio.Lock()

    @app.post("/trace")
    async def trace(asked: TraceRequest) -> TracedText:
        """Find where a text stands in what the model was trained on."""
        if isinstance(service.tracer, str):
            raise Refusal(404, service.tracer, "no_trace")
        async with one_at_a_time:
            return await asyncio.to_thread(service.tracer, asked.text)


_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


def _describe(app: FastAPI, service: Service, api_key: str | None) -> None:
    """Say in the description what only this server knows: its tokens, and that it wants a key."""
    told = app.openapi()
    schemas = told["components"]["schemas"]
    schemas["TokenId"]["maximum"] = service.thread.engine.tokenizer.vocab_size - 1
    schemas["TokenId"].pop("exclusiveMaximum", None)
    if api_key is not None:
        schemes = {"key": {"type": "http", "scheme": "bearer"}}
        told["components"]["securitySchemes"] = schemes
        for path, methods in told["paths"].items():
            for each in methods.values():
                each.update({} if path in OPEN_PATHS else {"security": [{"key": []}]})


def _policy(page: str) -> dict[str, str]:
    """Return headers by which a browser runs nothing but what stands in the page itself."""

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(part.encode()).digest() for part in parts)
        return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)

    rules = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors 'none'; script-src {hashes('script')}; "
        f"style-src {hashes('style')}"
    )
    return {"content-security-policy": rules, "x-content-type-options": "nosniff"}
