"""Hears whether anything is executed while a file is read: code, programs, libraries, connections.

Python tells auditing hooks of it. What it tells of modules that are imported for the first time is
left out, unless they lie where files are read.
"""

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ALWAYS = {
    *("pickle.find_class", "marshal.loads", "ctypes.dlopen", "socket.connect", "os.system"),
    *("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
}
"""Events that are executions whatever comes with them."""


class Executions:
    """What was executed while it watched.

    Args:
        folder: where files are read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._watching = str(folder), False
        self.found: list[str] = []
        sys.addaudithook(self._hear)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def take(self) -> str:
        """Return what was found, and forget it."""
        said, self.found = ", ".join(self.found), []
        return said

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in ALWAYS and not (event == "marshal.loads" and _is_importing()):
            self.found.append(f"{event} {arguments[:1]!r:.200}")
        elif event in ("exec", "compile"):
            code = arguments[0]
            name = code.co_filename if isinstance(code, types.CodeType) else arguments[-1]
            if not isinstance(name, str) or name.startswith(("<", self._folder)):
                self.found.append(f"{event} {name}")


def _is_importing() -> bool:
    """Tell whether Python's own importing has called what is being told of."""
    frame: Any = sys._getframe()
    while frame and "importlib._bootstrap_external" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None
