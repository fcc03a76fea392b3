"""The native library of sums over the torus: the one for the instruction set that kernels use."""

import ctypes
import functools
from pathlib import Path

import jax

from fugaku_jax.kernels import native as kernels
from fugaku_jax.kernels.native.libraries import installed


def available() -> bool:
    """Return whether there is a library, and native code is wanted."""
    return kernels.enabled() and _path(kernels.loaded()) is not None


def functions() -> ctypes.CDLL:
    """Return the library's plain C functions.

    Raises:
        RuntimeError: there is no library.
    """
    path = _path(kernels.loaded())
    if path is None:
        raise RuntimeError("Sums over the torus need the native library.")
    return ctypes.CDLL(str(path))  # the same one every time


@functools.cache
def target(name: str) -> str:
    """Make a custom call known to XLA, and return its name there."""
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(functions()[name]), platform="cpu")
    return name


@functools.cache
def _path(name: str | None) -> Path | None:
    return installed(f"fugaku_jax/collectives/native/{name}.so") if name else None
