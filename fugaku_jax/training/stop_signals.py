"""Signals that ask a run to save and stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM, SIGINT and SIGHUP into a wish to stop after the current step.

    The second SIGTERM or SIGINT kills. The second SIGHUP does not: when a terminal is closed, the
    kernel sends one and the shell another. Where SIGHUP is ignored, as by `nohup`, it stays so.

    Yields:
        a function that tells whether a signal came.
    """
    asked: list[int] = []
    before: dict[int, Any] = {}

    def ask(number: int, _: Any) -> None:
        asked.append(number)
        if number != signal.SIGHUP:
            signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        handler = signal.getsignal(number)
        if number == signal.SIGHUP and handler == signal.SIG_IGN:
            continue
        before[number] = handler
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
