"""The processes of a benchmark's contenders: start one, read what it measured, sum it up."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def run_python(
    who: str,
    *arguments: object,
    variables: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run a Python program to its end on the CPU, and return the objects that it prints as JSON.

    Args:
        who: how the program is called in an error.
        *arguments: the program's file and its arguments.
        variables: environment variables besides those of this process.
        before: what stands before `python`, as `taskset`.

    Raises:
        RuntimeError: the program failed; with the end of what it said.
    """
    process = subprocess.run(
        [*before, sys.executable, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(variables or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(f"{who} failed:\n{process.stderr[-4000:]}")
    # gloo says in between who is connected.
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def token_speeds(tokens: int, seconds: Sequence[float]) -> dict[str, float]:
    """Tokens a second of the median call, and of the slowest and the fastest.

    Args:
        tokens: of each call.
        seconds: what each call took.
    """
    return {
        "tokens_per_second": tokens / statistics.median(seconds),
        "tokens_per_second_min": tokens / max(seconds),
        "tokens_per_second_max": tokens / min(seconds),
    }
