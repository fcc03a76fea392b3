"""The native library of text, which `pip install` compiles; each of its functions has a twin in
Python, which runs where there was no compiler."""

import ctypes
import functools
from importlib import metadata
from pathlib import Path


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the library; None if it was not built."""
    file = "fugaku_jax/corpora/native/corpora.so"
    installed = metadata.distributions(name="fugaku-jax")
    paths = (Path(str(each.locate_file(file))) for each in installed)
    path = next((path for path in paths if path.exists()), None)
    return None if path is None else ctypes.CDLL(str(path))
