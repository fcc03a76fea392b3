"""What the processor can run, as Linux says, and what XLA has to be told about it."""

import ctypes
import functools
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

FLAGS_VARIABLE = "XLA_FLAGS"
A64FX_FLAGS = {
    "--xla_cpu_max_isa": "SVE",
    "--xla_backend_extra_options": "-aarch64-sve-vector-bits-min=512",
}
"""By themselves, XLA's fused loops have vectors of 128 bits (NEON)."""

_PR_SVE_GET_VL = 51  # <linux/prctl.h>
_PR_SVE_VL_LEN_MASK = 0xFFFF
_SYS_ARCH_PRCTL = 158  # <asm/unistd_64.h>, <asm/prctl.h>
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


def available_cores() -> list[int]:
    """Return the numbers of the cores that this process may use; on macOS that is all."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def bind(cores: Sequence[int]) -> None:
    """Keep this process, and those that it starts from now on, on some cores; not on macOS."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@functools.cache
def features() -> frozenset[str]:
    """Return the words by which Linux describes the processor."""
    info = Path("/proc/cpuinfo")
    return frozenset(info.read_text().split()) if info.exists() else frozenset()


def processor_name() -> str:
    """Return what the processor calls itself; its architecture where it has no name."""
    if is_a64fx():
        return "Fujitsu A64FX"
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.M)
    return named[1] if named else platform.machine()


def vector_bytes() -> int:
    """Return the length in bytes of this thread's SVE registers; 0 without SVE."""
    if platform.machine() != "aarch64" or "sve" not in features():
        return 0
    length = ctypes.CDLL(None, use_errno=True).prctl(_PR_SVE_GET_VL, 0, 0, 0, 0)
    return max(length, 0) & _PR_SVE_VL_LEN_MASK


def is_a64fx() -> bool:
    """Return whether this is Fujitsu's A64FX, with its SVE registers as long as they can be.

    A program may be started with shorter ones, and what is compiled for 512 bits is wrong there.
    """
    return {"0x46", "0x001"} <= features() and vector_bytes() == 64


def may_use_tiles() -> bool:
    """Ask Linux to let this process use AMX's tiles, and return whether it does.

    It does not if a signal's handler has a stack too small for them, and before Linux 5.16.

    Source: the Linux kernel's documentation, "Using XSTATE features in user space applications".
    """
    if platform.machine() != "x86_64" or "amx_tile" not in features():
        return False
    ask = ctypes.CDLL(None).syscall
    return ask(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0


def widen_fused_loops() -> None:
    """Let XLA compile for the whole vectors of an A64FX; before JAX starts its CPU backend.

    What the user has set in XLA_FLAGS stays as it is; if that is the name of a file, all of it.
    """
    given = os.environ.get(FLAGS_VARIABLE, "").strip()
    if not is_a64fx() or (given and not given.startswith("-")):
        return
    added = [f"{flag}={value}" for flag, value in A64FX_FLAGS.items() if flag not in given]
    os.environ[FLAGS_VARIABLE] = " ".join([given, *added]).strip()
