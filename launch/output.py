"""Standard output whose reader may go away, as in `train.py tiny | head -5`."""

import io
import os
import select
import sys
from typing import Any


class _Dropping(io.FileIO):
    """A file that takes what cannot be written any more and drops it."""

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError:
            _lead_nowhere(self.fileno())
            return memoryview(data).nbytes


def outlive_readers() -> None:
    """Let this program go on when nobody can read what it prints: that is then dropped."""
    for name in ("stdout", "stderr"):
        given = getattr(sys, name)
        if given is None:  # it was closed when the program started
            continue
        given.flush()
        text = io.TextIOWrapper(
            io.BufferedWriter(_Dropping(given.fileno(), "w", closefd=False)),
            encoding=given.encoding,
            errors=given.errors,
            line_buffering=given.line_buffering,
        )
        setattr(sys, name, text)


def reader_has_gone() -> bool:
    """Tell whether nobody reads standard output any more; what is left for it is then dropped."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0)):
        return False
    _lead_nowhere(sys.stdout.fileno())
    return True


def _lead_nowhere(descriptor: int) -> None:
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
