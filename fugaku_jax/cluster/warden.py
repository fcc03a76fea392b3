"""End the ranks of a launcher that was killed: its standard input ends when the launcher does.

On each line of the input stands the process group of a rank. They get SIGTERM, at which a training
run saves and stops, and much later SIGKILL. A launcher that comes to its end kills this first.
"""

import contextlib
import os
import signal
import sys
import time

GRACE_SECONDS = 120.0
"""How long a rank has to save and end: a large model's step and its checkpoint take their time."""


def main() -> None:
    """Wait for the end of the input, then end the ranks."""
    groups = [int(line) for line in sys.stdin]
    send(signal.SIGTERM, groups)
    deadline = time.monotonic() + GRACE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.1)
        groups = send(0, groups)
    send(signal.SIGKILL, groups)


def send(number: int, groups: list[int]) -> list[int]:
    """Send a signal to process groups, or 0 for none; return those that there were."""
    there = []
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
            there.append(group)
    return there


if __name__ == "__main__":
    main()
