"""Where a store lives: a local folder, or any URL that TensorStore's key-value stores take."""

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorstore as ts

from fugaku_jax.errors import InputError

# One context for the whole process: `memory://` stores live in it, and all arrays share one cache
# of decoded chunks, so that rows which lie beside each other are read from the disk once.
_CONTEXT = ts.Context(
    {"cache_pool": {"total_bytes_limit": 256 << 20}, "memory_key_value_store": {}}
)
_MOST_LETTERS = 500  # of TensorStore's own words, which may tell of all that a file says


def context() -> ts.Context:
    """The TensorStore context (chunk cache, in-memory stores) that this process uses."""
    return _CONTEXT


def local_path(location: str) -> Path | None:
    """The folder that `location` names on this machine, or None when it is another URL."""
    if location.startswith("file://"):
        return Path(location.removeprefix("file://"))
    return None if "://" in location else Path(location)


def open_location(location: str) -> ts.KvStore:
    """The key-value store at a folder or URL, keys below it relative to it.

    Args:
        location: a local path (`stores/ja`) or a URL (`file:///…`, `memory://…`, `s3://…`, `gs://…`).

    Raises:
        InputError: TensorStore knows no such kind of URL, or the path is a file.
    """
    path = local_path(location)
    if path is not None:
        if path.exists() and not path.is_dir():
            raise InputError(f"store {location}: this is a file; give a folder or a URL.")
        spec = {"driver": "file", "path": f"{path.absolute()}/"}
    else:
        spec = location if location.endswith("/") else f"{location}/"
    with storage_errors(location, "opened"):
        return ts.KvStore.open(spec, context=_CONTEXT).result()


def read_value(location: str, root: ts.KvStore, key: str) -> bytes:
    """The value of a key of the store at `location`.

    Raises:
        InputError: it is missing or cannot be read.
    """
    with storage_errors(location, "read"):
        found = root.read(key).result()
    if found.state != "value":
        raise InputError(f"store {location}: {key} is missing; build the store again.")
    return found.value


@contextmanager
def storage_errors(location: str, action: str) -> Iterator[None]:
    """Turns TensorStore's failures inside the block into one sentence about `location`."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError, RuntimeError, NotImplementedError) as error:
        # Without TensorStore's status code before and its "[key='value'] …" notes after.
        reason = re.sub(r"^[A-Z_]+: | \[.*", "", " ".join(str(error).split())).rstrip(".")
        raise InputError(
            f"store {location}: cannot be {action}: {textwrap.shorten(reason, _MOST_LETTERS)}."
        ) from error
