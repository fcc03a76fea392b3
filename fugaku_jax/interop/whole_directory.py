"""A directory that appears when everything in it is written, and not at all if something fails."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fugaku_jax.errors import InputError


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give a directory to write in, which becomes `path` at the end of the block.

    Args:
        path: it must not exist yet, or be empty.

    Raises:
        InputError: something is in the way, or the disk is full.
    """
    place = path.resolve()  # `.` and `..` have names too
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{path} exists already; give a directory that does not.")
    if place == Path.cwd():
        raise InputError(f"{path} is where you are, and would be replaced; give another directory.")
    unfinished = place.with_name(f".{place.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(place)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
