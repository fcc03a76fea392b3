"""What Prometheus is told of a server."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fugaku_jax.serving.engine_thread import EngineThread

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self, thread: EngineThread) -> None:
        """Args: what answers; it is asked when the figures are read."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "fugaku_requests", "Requests answered.", ("path", "status"), registry=registry
        )
        self.seconds = Histogram(
            *("fugaku_request_seconds", "From a request to the last byte of its answer."),
            ("path",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.first_token_seconds = Histogram(
            *("fugaku_first_token_seconds", "From a request to the first token of its answer."),
            registry=registry,
            buckets=_SECONDS,
        )
        self.prompt_tokens = Counter(
            "fugaku_prompt_tokens", "Tokens of prompts.", registry=registry
        )
        self.generated_tokens = Counter(
            "fugaku_generated_tokens", "Tokens that were generated.", registry=registry
        )
        engine = thread.engine
        for name, told, value in (
            ("busy_slots", "Texts that are being continued.", lambda: engine.busy),
            ("queued", "Texts that wait for a slot.", lambda: engine.queued),
            ("slots", "Texts that are continued at once at most.", lambda: engine.slots),
            ("up", "Whether the engine answers.", lambda: thread.alive),
        ):
            Gauge(f"fugaku_{name}", told, registry=registry).set_function(value)


class Counted:
    """An ASGI application around another, whose requests are counted and timed."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        """Args: what answers; where it is counted; the paths that are told apart."""
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # nobody was there to be answered

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - began)
