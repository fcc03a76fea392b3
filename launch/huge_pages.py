"""Huge pages for a program's large arrays, without its user's doing.

XLA takes the memory of a step's temporaries from the C library, which gives it back to the kernel
after every step; so every step faults it in again, 4 KiB at a time. With huge pages that is 2 MiB
at a time, and the processor looks fewer addresses up. glibc (2.35 or newer) asks the kernel for
them if a variable says so, which it reads only when a program starts.
"""

import contextlib
import os
import re
import sys
import threading
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def tunables() -> str:
    """Return the variable's value that asks for huge pages, unless it says something of them."""
    given = os.environ.get(VARIABLE, "")
    return given if TUNABLE in given else f"{given}:{TUNABLE}=1".lstrip(":")


def use_huge_pages() -> None:
    """Start this program anew with huge pages, if the kernel gives them to those who ask.

    It stays the same process. To be called before anything is done or large modules are imported.
    A program that another runs inside itself, as Jupyter does by `%run`, goes on as it is.
    """
    value = tunables()
    if os.environ.get(VARIABLE) == value or not _given_on_request() or not _alone():
        return
    # An emulated program cannot be started this way; it goes on as it is.
    with contextlib.suppress(OSError):
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {VARIABLE: value}
        )


def _alone() -> bool:
    """Tell whether this process was started for this program, and does nothing else."""
    before, own = sys.orig_argv[1 : -len(sys.argv)], sys.orig_argv[-len(sys.argv) :]
    by_itself = own == sys.argv and all(re.fullmatch("-.*[^cm]", option) for option in before)
    return by_itself and threading.active_count() == 1


def _given_on_request() -> bool:
    try:
        return "[madvise]" in KERNEL.read_text()
    except OSError:
        return False
