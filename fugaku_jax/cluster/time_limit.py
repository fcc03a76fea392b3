"""When a job's time is up, as whoever schedules it says."""

import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from fugaku_jax.errors import InputError

_VARIABLES = ("FUGAKU_JAX_JOB_END", "SLURM_JOB_END_TIME")


def is_near(seconds: float | None, environ: Mapping[str, str] = os.environ) -> Callable[[], bool]:
    """Return what tells whether a job ends within so many seconds.

    The end is read and turned into a time of the clock that never leaps now, once.

    Args:
        seconds: before the end; None if nobody is to stop before it.
        environ: the environment variables.

    Raises:
        InputError: nothing says when the job ends, it says no time, or that time has passed.
    """
    if seconds is None:
        return lambda: False
    found = [(name, environ[name]) for name in _VARIABLES if environ.get(name)]
    if not found:
        raise InputError(
            f"training.stop_before_limit is {seconds:g}, but nothing says when the job ends; set "
            "FUGAKU_JAX_JOB_END to that time in every process, as 2026-11-28T21:00:00 or in "
            "seconds since 1970."
        )
    name, text = found[0]
    left = _seconds_since_1970(name, text) - time.time()
    if left <= 0:
        raise InputError(f"{name} is {text}, but it must be when this job ends, not in the past.")
    moment = time.monotonic() + left - seconds
    return lambda: time.monotonic() >= moment


def _seconds_since_1970(name: str, text: str) -> float:
    try:
        if re.fullmatch(r"\d{1,12}", text.strip(), re.ASCII):
            return float(text)
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{name} is {text[:40]!r}, but it must be a time, as 2026-11-28T21:00:00 or in seconds "
            "since 1970."
        ) from None
