"""Which implementation of a kernel runs is told by a context that JAX's caches know of."""

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.kernels import native
from fugaku_jax.kernels.activation import gelu
from fugaku_jax.kernels.native import libraries


def is_native(choice: str) -> bool:
    """Tell whether a function that is jitted once runs natively where it is asked for a choice."""
    with native.use(choice):
        return "fugaku_gelu" in PROGRAM.lower(jnp.ones((4, 8))).as_text()


PROGRAM = jax.jit(gelu)


def test_one_jitted_function_runs_by_either_in_turn_and_nothing_is_cleared():
    assert [is_native(each) for each in ("native", "reference") * 2] == [True, False] * 2


def test_a_choice_is_that_of_its_thread():
    with native.use("reference"), ThreadPoolExecutor(1) as other:
        assert other.submit(is_native, "native").result()
        assert not native.enabled()


def test_another_choice_is_refused():
    with native.use("fast"), pytest.raises(InputError, match="'fast', but it must be one of auto,"):
        native.enabled()


# A signal's handler that runs on 4 KiB has no room for eight tiles, so Linux refuses them.
REFUSED = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(4096)
stack = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
from fugaku_jax import processor
from fugaku_jax.kernels import native
print(processor.may_use_tiles(), native.loaded())
"""


def test_where_linux_refuses_tiles_the_next_library_runs():
    command = [sys.executable, "-c", REFUSED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    allowed, library = done.stdout.split()
    assert allowed == "False"
    assert library not in ("avx512_amx", "None")


class Named(ctypes.CDLL):
    """A library that is not there."""

    def __init__(self, file):
        self._name = str(file)


@pytest.mark.parametrize(
    ("maker", "best"), [("GenuineIntel", "avx512_vnni"), ("AuthenticAMD", "avx512_bf16")]
)
def test_pairs_are_multiplied_where_that_is_faster(monkeypatch, maker, best):
    avx512 = {f"avx512{name}" for name in ("f", "bw", "cd", "dq", "vl", "_vnni", "_bf16")}
    monkeypatch.setattr(libraries.processor, "features", lambda: {maker, "fma", "f16c"} | avx512)
    monkeypatch.setattr(libraries, "installed", Path)
    monkeypatch.setattr(libraries, "_sources", list)
    monkeypatch.setattr(libraries.ctypes, "CDLL", Named)
    libraries.load.cache_clear()
    try:
        assert native.loaded() == best
        with native.use("native", "avx512_bf16"):  # who names it gets it
            assert native.loaded() == "avx512_bf16"
    finally:
        libraries.load.cache_clear()


def test_kernels_older_than_their_sources_are_told(tmp_path):
    """They may take other arguments than they are given, which XLA says in words of its own."""
    file = "fugaku_jax/kernels/native/generic.so"
    built, copy = libraries.installed(file), tmp_path / file
    assert built is not None
    copy.parent.mkdir(parents=True)
    shutil.copyfile(built, copy)
    installed = tmp_path / "fugaku_jax-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: fugaku-jax\nVersion: 0\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), native.ISA_VARIABLE: "generic"}
    command = [sys.executable, "-c", "from fugaku_jax.kernels import native; native.loaded()"]
    told = []
    for seconds in (4_000_000_000, 0):
        os.utime(copy, (seconds, seconds))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        told.append(done.stderr)
    assert told[0] == ""
    assert f"The native kernels {copy} are older than their sources" in told[1]
