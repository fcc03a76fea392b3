"""The processes of a benchmark's contenders: start one, read what it measured, sum it up.

As a program, this module starts joined processes of another: `python -m
fugaku_jax.benchmarks.processes PROCESSES DEVICES MODULE ARGUMENT…`.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from fugaku_jax.cluster.local import start_and_wait
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.huge_pages import huge_page_variables


def run_module(
    who: str,
    *arguments: object,
    variables: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run a module to its end on the CPU, and return the objects that it prints as JSON.

    Args:
        who: how the program is called in an error.
        *arguments: the module's name and its arguments.
        variables: environment variables besides those of this process.
        before: what stands before `python`, as `taskset`.

    Raises:
        RunError: the program failed; with the end of what it said.
    """
    process = subprocess.run(
        [*before, sys.executable, "-m", *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(variables or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise RunError(f"{who} failed:\n{process.stderr[-4000:]}")
    # gloo says in between who is connected.
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def run_joined(
    who: str,
    processes: int,
    *arguments: object,
    devices: int = 1,
    variables: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Run several processes of a module, joined over gloo; return what rank 0 prints as JSON.

    They have huge pages where a training run would have.

    Args:
        who: how they are called in an error.
        processes: how many; each gets its share of the cores.
        *arguments: the module's name and its arguments.
        devices: how many to emulate in each.
        variables: as `run_module`.
        before: as `run_module`.

    Raises:
        RunError: a process failed.
    """
    starter = __name__, processes, devices
    variables = huge_page_variables() | dict(variables or {})
    return run_module(who, *starter, *arguments, variables=variables, before=before)


def print_joined(rows: Iterable[dict[str, Any]]) -> NoReturn:
    """Join the other processes and leave with them; rank 0 prints what they measured as JSON.

    Args:
        rows: measured as they are asked for, when all are joined.
    """
    from fugaku_jax.cluster.hosts import find_hosts, join, leave

    code = 0
    try:
        join(find_hosts(os.environ))
        for row in rows:
            print(json.dumps(row), flush=True)
    except Exception:
        traceback.print_exc()
        code = 1
    leave(code)


def require(*libraries: str) -> None:
    """See that the libraries are here that this project is to be compared with.

    Raises:
        InputError: one is missing.
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} must be installed for ours to be compared with: "
            "`pip install .[test]`."
        )


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


def main() -> int:
    """Start the processes, and leave as they did."""
    processes, devices, *arguments = sys.argv[1:]
    return start_and_wait([sys.executable, "-m", *arguments], int(processes), int(devices))


if __name__ == "__main__":
    sys.exit(main())
