"""Many clients at a server of `launch/serve.py`: how long they wait, what fails, what it keeps."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fugaku_jax.benchmarks.tables import Row
from fugaku_jax.errors import InputError

_PROMPTS = ("むかしむかし、", "日本の山は", "Once upon a time", "1 + 1 =")
_BACK_OFF_SECONDS = 0.5  # after a 429, whose Retry-After is a second


@dataclass
class _Heard:
    tokens_wanted: int
    statuses: Counter[str] = field(default_factory=Counter)
    first_tokens: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    tokens: int = 0


def run(
    url: str,
    clients: int,
    seconds: float,
    tokens: int,
    api_key: str | None,
    say: Callable[[str], None],
) -> Row:
    """Let clients ask one after another each, by streams, and count what they hear.

    Args:
        url: of the server.
        clients: at a time.
        seconds: in which requests begin.
        tokens: of each answer, at most.
        api_key: of the server, if it wants one.
        say: told how far it is.

    Returns:
        answers by status (`broken` for a stream without an end), the 50th and 99th percentile of
        the seconds to the first token and to the last, tokens a second, and the server's memory
        before and after, in MB, with what it is still busy with.

    Raises:
        InputError: no server answers there, or httpx is not installed.
    """
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise InputError("httpx is not installed; `pip install httpx` brings it.") from error
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=clients + 2, max_keepalive_connections=clients + 2)
    heard = _Heard(tokens)

    async def one(client: httpx.AsyncClient, number: int, end: float) -> None:
        while time.perf_counter() < end:
            try:
                await _ask(client, number, heard)
            except httpx.HTTPError as error:
                heard.statuses[type(error).__name__] += 1
            number += clients

    async def measure() -> Row:
        given = {"headers": headers, "limits": limits, "timeout": 600}
        async with httpx.AsyncClient(base_url=url, **given) as client:
            await _ask(client, 0, _Heard(tokens))  # what is compiled at first
            before, began = await _figures(client), time.perf_counter()
            say(f"{clients} clients for {seconds:g} seconds")
            await asyncio.gather(
                *(one(client, number, began + seconds) for number in range(clients))
            )
            taken = time.perf_counter() - began
            after = await _figures(client)
        return {
            "clients": clients,
            "statuses": dict(heard.statuses),
            **_percentiles("first_token_seconds", heard.first_tokens),
            **_percentiles("answer_seconds", heard.answers),
            "tokens_per_second": heard.tokens / taken,
            "memory_before_mb": before["process_resident_memory_bytes"] / 1e6,
            "memory_after_mb": after["process_resident_memory_bytes"] / 1e6,
            "busy_after": after["fugaku_busy_slots"] + after["fugaku_queued"],
        }

    try:
        return asyncio.run(measure())
    except httpx.HTTPError as error:
        raise InputError(f"--url {url}: no server of ours answers there: {error}.") from error


async def _ask(client: Any, number: int, heard: _Heard) -> None:
    """Ask once, and note what comes."""
    began, is_first, ended = time.perf_counter(), True, False
    asked = {
        "prompt": _PROMPTS[number % len(_PROMPTS)],
        "max_tokens": heard.tokens_wanted,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with client.stream("POST", "/v1/completions", json=asked) as answer:
        if answer.status_code != 200:
            await answer.aread()
            heard.statuses[str(answer.status_code)] += 1
            await asyncio.sleep(_BACK_OFF_SECONDS)
            return
        async for line in answer.aiter_lines():
            event = line.removeprefix("data: ")
            ended |= event == "[DONE]"
            if event.startswith("{"):
                counted = json.loads(event).get("usage") or {}
                heard.tokens += counted.get("completion_tokens", 0)
                if is_first:
                    heard.first_tokens.append(time.perf_counter() - began)
                is_first = False
    heard.statuses["200" if ended else "broken"] += 1
    heard.answers.append(time.perf_counter() - began)


async def _figures(client: Any) -> dict[str, float]:
    text = (await client.get("/metrics")).raise_for_status().text
    names = "process_resident_memory_bytes", "fugaku_busy_slots", "fugaku_queued"
    found = {name: re.search(rf"^{name} (\S+)$", text, re.M) for name in names}
    return {name: float(each[1]) if each else 0.0 for name, each in found.items()}


def _percentiles(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [float("nan")]
    places = {"p50": 0.5, "p99": 0.99}
    return {
        f"{name}_{each}": ordered[min(len(ordered) - 1, int(place * len(ordered)))]
        for each, place in places.items()
    }
