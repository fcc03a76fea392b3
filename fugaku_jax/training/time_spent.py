"""Where the time of a session goes while it runs."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fugaku_jax.run.sessions import Seconds


class TimeSpent:
    """Adds up seconds by the names of `Seconds`; what nobody names is `other`.

    Args:
        before: seconds that the process had run before, named `start`.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._begun = time.perf_counter() - before
        self._seconds = {each.name: 0.0 for each in dataclasses.fields(Seconds)}
        self._seconds["start"] = before

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a name, or take some off."""
        self._seconds[name] += seconds

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Add the time that is spent inside to a name."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begun)

    def seconds(self) -> Seconds:
        """Return where the time went so far."""
        named = Seconds(**self._seconds)
        elapsed = time.perf_counter() - self._begun
        return dataclasses.replace(named, other=max(elapsed - named.total, 0.0))

    def goodput(self) -> float:
        """Return the share of the time so far in steps that updated the weights."""
        return self._seconds["steps"] / max(time.perf_counter() - self._begun, 1e-9)
