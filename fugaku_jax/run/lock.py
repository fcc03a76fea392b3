"""One program at a time writes a run: a lock that ends with its process."""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fugaku_jax.errors import InputError

LOCK_FILE = ".lock"
"""Stays when its holder has gone, and then means nothing: the system's lock on it counts."""


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run directory, which is made if it is not there.

    Who only reads a run needs no lock.

    Raises:
        InputError: another program holds it, or the directory cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--run-dir {run_dir} cannot be written: {error}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another program"
            raise InputError(
                f"--run-dir {run_dir} is being trained by {holder}; wait for its end, or give "
                "another directory."
            ) from None
        except OSError as error:  # some mounts of network file systems have no locks
            print(
                f"warning: {run_dir} cannot be locked ({error.strerror}), so nothing keeps a "
                "second program from training there.",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
