"""Files of JSON objects, a line each: read whole, or grown line by line and kept through a kill."""

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fugaku_jax.data.lines import read_lines
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import parse_json


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file in order, each with what sentences call its line; empty lines are none.

    Raises:
        InputError: the file cannot be read, or a line is no JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(read_lines(file, path.name), 1):
                if line.strip():
                    name = f"{path}, line {number}"
                    yield name, parse_json(line, name)
    except OSError as error:  # a damaged archive has no `strerror`
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


class GrowingLines:
    """A file that grows by whole lines; what a kill has left of one is cut off as it is opened.

    It is one program's while it is open, where the file system knows locks.
    """

    def __init__(self, path: Path, fields: tuple[str, ...]) -> None:
        """Open or begin a file.

        Args:
            path: the file.
            fields: what each of its lines must have.

        Raises:
            InputError: it cannot be written, another program writes it, or a line is no object
                with these fields.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path} is being written by another program.") from None
        except OSError:
            pass  # no locks there
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)
        self.lines: list[dict[str, Any]] = []
        """Those that are in it."""
        for name, line in read_objects(path):
            if missing := [each for each in fields if each not in line]:
                raise InputError(f"{name}: {missing[0]} is missing.")
            self.lines.append(line)

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; it is on the disk when this returns."""
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)

    def __enter__(self) -> "GrowingLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
