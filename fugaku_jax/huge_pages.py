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


def huge_page_variables() -> dict[str, str]:
    """Return the variables with which a program has to be started to get huge pages.

    None where the user has said something of them, or the kernel does not give them on request.
    """
    given = os.environ.get(VARIABLE, "")
    if TUNABLE in given or not _given_on_request():
        return {}
    return {VARIABLE: f"{given}:{TUNABLE}=1".lstrip(":")}


def use_huge_pages() -> None:
    """Start this program anew with huge pages, if the kernel gives them to those who ask.

    It stays the same process. To be called before anything is done or large modules are imported.
    A program that another runs inside itself, as Jupyter does by `%run`, goes on as it is.
    """
    variables = huge_page_variables()
    if not variables or not _alone():
        return
    # An emulated program cannot be started this way; it goes on as it is.
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)


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
