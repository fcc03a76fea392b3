"""Files of a run that are there whole or not at all, whatever ends the program that writes them."""

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def is_full(error: OSError) -> bool:
    """Tell whether a disk has no room, or a user no more of it: no input is wrong then."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def replace_file(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file whole or not at all: `write` gets a binary file that then becomes `path`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object, for people to read too, whole or not at all."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))
