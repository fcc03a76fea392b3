"""Under `make sanitize`: a fault of a kernel that is compiled as the others are ends the program.

Without it nobody would know whether the sanitizers look at the kernels at all.
"""

import os
import subprocess
import sys

import pytest

from fugaku_jax.kernels import native

pytestmark = pytest.mark.sanitize
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from fugaku_jax.kernels import native
count, value = map(int, sys.argv[1:])
x = jnp.full(16, value, jnp.int32)
print(native.call("double_all", [jax.ShapeDtypeStruct(x.shape, x.dtype)], jnp.int32(count), x)[0])
"""


def double(count, value):
    """Double the first numbers of sixteen by the kernel in `faulty.cc`, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(count), str(value)],
        env=os.environ | {native.ISA_VARIABLE: "faulty", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_in_order_passes():
    done = double(16, 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[8", *["8"] * 14, "8]"]


@pytest.mark.parametrize(
    ("count", "value", "report"),
    [(17, 4, "heap-buffer-overflow"), (16, 2**30, "signed integer overflow")],
)
def test_a_fault_ends_the_program_with_a_report(count, value, report):
    done = double(count, value)
    assert done.returncode != 0
    assert report in done.stderr
    assert "faulty.cc" in done.stderr
