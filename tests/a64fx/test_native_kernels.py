"""The native kernels on the emulated A64FX: right, in SVE, no more work than the arithmetic's."""

import importlib.util
import signal
from pathlib import Path

import pytest
from emulator import (
    A64FX_FLAGS,
    PROJECT,
    EmulationError,
    compile,
    python_command,
    run_program,
    run_python,
)
from instructions import count_fmla, inner_loops, modelled_cycles
from libraries import FOLDER

pytestmark = pytest.mark.a64fx

KERNEL_TESTS = sorted(path.name for path in (PROJECT / "tests" / "kernels").glob("test_*.py"))
PIPES = 2
"""Fused multiply-adds that an A64FX can start in a cycle."""
LANES = 16


@pytest.mark.parametrize("name", KERNEL_TESTS)
def test_kernels_pass_their_own_tests(name):
    """With the libraries `a64fx` and `generic`, which are chosen and loaded as on a real one."""
    options = ("-p", "fewer_examples", "-p", "no:cacheprovider", "-rs")
    said = run_python(["-m", "pytest", *options, f"tests/kernels/{name}"], timeout=1800)
    assert " passed in " in said
    assert "skipped" not in said


LOADED = "from fugaku_jax.kernels import native; print(native.loaded())"


def test_the_library_for_512_bits_is_taken_only_where_registers_are_that_long():
    assert run_python(["-c", LOADED]).split() == ["a64fx"]
    shorter = "import ctypes; assert ctypes.CDLL(None).prctl(50, 32) == 32"  # PR_SVE_SET_VL
    assert run_python(["-c", f"{shorter}; {LOADED}"]).split() == ["generic"]
    # /proc/cpuinfo still tells of an A64FX, but the kernel knows no SVE.
    assert run_python(["-c", LOADED], env={"QEMU_CPU": "cortex-a76"}).split() == ["generic"]


GELU = """
from fugaku_jax import processor
processor.is_a64fx = lambda: True
import jax.numpy as jnp
from fugaku_jax.kernels import native
from fugaku_jax.kernels.activation import gelu
assert native.loaded() == "a64fx"
print(gelu(jnp.float32([1.0, 1e-39])), gelu(jnp.float16([1e-6])))
"""


def test_a_processor_without_sve_refuses_the_kernels():
    kernels = {"FUGAKU_JAX_KERNELS": "native"}
    assert run_python(["-c", GELU], env=kernels).split() == ["[0.841192", "0.", "]", "[4.8e-07]"]
    with pytest.raises(EmulationError, match="Illegal instruction") as caught:
        run_python(["-c", GELU], env=kernels | {"QEMU_CPU": "cortex-a76", "XLA_FLAGS": " "})
    assert caught.value.returncode == -signal.SIGILL


DENORMALS = """
#include <cstdio>
#include <optional>

#include "pool.h"

int main() {
  volatile float tiny = 1e-39f, one = 1.0f;
  volatile __fp16 narrow = 1e-6f;
  std::optional<pool::FlushDenormals> flush;
  for (int turn = 0; turn < 3; ++turn) {
    std::printf("%d%d ", tiny * one != 0, float(narrow) != 0);
    turn == 0 ? void(flush.emplace()) : flush.reset();
  }
}
"""


def test_a_task_flushes_denormals_of_fp32_not_of_fp16_and_leaves_no_trace(tmp_path):
    (tmp_path / "flush.cc").write_text(DENORMALS)
    includes = [f"-I{PROJECT / 'fugaku_jax' / 'kernels' / 'native'}", f"-isystem{jaxlib_headers()}"]
    flags = [*A64FX_FLAGS, *includes]
    program = compile([tmp_path / "flush.cc"], tmp_path / "flush", flags)
    assert run_program(program).split() == ["11", "01", "11"]


def jaxlib_headers():
    jaxlib = importlib.util.find_spec("jaxlib")
    return Path(jaxlib.origin).parent / "include"


# Batch, rows and columns of the products in a block of the 13B model that six processes share.
SHAPES_13B = {
    "qkv": (1, 2048, 2592),
    "scores": (6, 2048, 2048),
    "values": (6, 2048, 144),
    "out": (1, 2048, 5184),
    "up": (1, 2048, 3456),
    "down": (1, 2048, 5184),
}
DEPTH = 16
PANEL = 48  # columns of a tile; what is filled up is computed too
PRODUCTS = f"""
import sys
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec
from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import einsum
assert native.loaded() == "a64fx"
shapes = {list(SHAPES_13B.values())}
for batch, rows, columns in shapes[: int(sys.argv[1])]:
    x, y = jnp.ones((batch, rows, {DEPTH})), jnp.ones((batch, {DEPTH}, columns))
    z = einsum("bmk,bkn->bmn", x, y, PartitionSpec())
    assert float(z.min()) == float(z.max()) == {DEPTH}
"""


def test_products_of_the_13b_model_execute_the_multiply_adds_of_their_arithmetic():
    counts = [count_fmla(python_command(["-c", PRODUCTS, n]), timeout=600) for n in ("0", "6")]
    expected = sum(
        batch * rows * DEPTH * -(-columns // PANEL) * PANEL // LANES
        for batch, rows, columns in SHAPES_13B.values()
    )
    assert counts[1]["sve_fp32"] - counts[0]["sve_fp32"] == expected
    assert counts[1]["sve_indexed"] == counts[0]["sve_indexed"]
    assert counts[1]["neon"] == counts[0]["neon"]


def objects(source):
    """The object file of a source, as the library was linked from it."""
    (found,) = FOLDER.glob(f"CMakeFiles/a64fx.dir/**/{source}.o")
    return found
