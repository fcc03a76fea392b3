"""Run a program that kills itself when it touches its run directory for the N-th time.

`DYING=N:FOLDER:COUNT python dying.py PROGRAM ARGUMENT…` ends by SIGKILL before the N-th file or
folder in FOLDER is opened for writing, made, renamed or removed by Python. The file COUNT holds how
many were touched, COUNT.path the last one. Of several ranks the first does so.
"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def die_at_touch(at: int, folder: str, count: Path) -> None:
    """Have this process killed before it touches the folder for the `at`-th time; never if 0."""
    touches = 0

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touches
        if not (event in CHANGES or (event == "open" and arguments[2] & os.O_ACCMODE)):
            return
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(folder):
            touches += 1
            count.write_text(str(touches))
            count.with_suffix(".path").write_text(os.path.abspath(path))
            if touches == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


if __name__ == "__main__":
    number, watched, counted = os.environ["DYING"].split(":")
    if os.environ.get("FUGAKU_JAX_PROCESS", "0") == "0":
        die_at_touch(int(number), watched, Path(counted))
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
