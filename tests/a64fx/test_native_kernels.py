"""The native kernels on the emulated A64FX: right, in SVE, no more work than the arithmetic's."""

import importlib.util
import re
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
from instructions import busiest_loop, count_fmla, inner_loops, modelled_cycles
from libraries import FOLDER

pytestmark = pytest.mark.a64fx

KERNEL_TESTS = sorted(path.name for path in (PROJECT / "tests" / "kernels").glob("test_*.py"))
PIPES = 2
"""Fused multiply-adds that an A64FX can start in a cycle."""
LANES = 16


@pytest.mark.parametrize("name", KERNEL_TESTS)
def test_kernels_pass_their_own_tests(name):
    """With the libraries `a64fx` and `generic`, which are chosen and loaded as on a real one."""
    options = ("-p", "emulated_session", "-p", "no:cacheprovider", "-rs")
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
import numpy as np
from fugaku_jax.kernels import native
from fugaku_jax.kernels.activation import gelu
assert native.loaded() == "a64fx"
tiny = [np.float32(1e-39), np.float16(1e-6)]  # both below the normal numbers of their types
print(*(bool(gelu(np.array([x]))[0] == 0) for x in tiny))
"""


def test_a_processor_without_sve_refuses_the_kernels_and_nothing_else():
    other = {"QEMU_CPU": "cortex-a76"}
    said = run_python(["-c", GELU], env={"FUGAKU_JAX_KERNELS": "native"})
    assert said.split() == ["True", "False"]
    run_python(["-c", GELU], env=other | {"FUGAKU_JAX_KERNELS": "reference"})
    with pytest.raises(EmulationError, match="Illegal instruction") as caught:
        run_python(["-c", GELU], env=other | {"FUGAKU_JAX_KERNELS": "native"})
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
PRODUCTS = f"""
import sys
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec
from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import einsum
assert native.loaded() == "a64fx"
shapes = {list(SHAPES_13B.values())}
for batch, rows, columns in shapes[: int(sys.argv[2])]:
    x = jnp.ones((batch, rows, {DEPTH}), sys.argv[1])
    y = jnp.ones((batch, {DEPTH}, columns), sys.argv[1])
    z = einsum("bmk,bkn->bmn", x, y, PartitionSpec())
    assert float(z.min()) == float(z.max()) == {DEPTH}
"""


# Columns of a tile, 3 registers: what is filled up is computed too.
@pytest.mark.parametrize(
    ("dtype", "kind", "panel"), [("float32", "sve_fp32", 48), ("float16", "sve_fp16", 96)]
)
def test_products_of_the_13b_model_execute_the_multiply_adds_of_their_arithmetic(
    dtype, kind, panel
):
    none, all_six = (
        count_fmla(python_command(["-c", PRODUCTS, dtype, n]), timeout=600) for n in ("0", "6")
    )
    expected = sum(
        batch * rows * DEPTH * -(-columns // panel) * 3
        for batch, rows, columns in SHAPES_13B.values()
    )
    assert {each: all_six[each] - none[each] for each in none} == dict.fromkeys(none, 0) | {
        kind: expected
    }


TILE = 24
MULTIPLY_ADDS = ("fmla", "fmad", "fmls", "fmsb")


def loops_of(source):
    """The inner loops of a source, as the library was linked from it."""
    (found,) = FOLDER.glob(f"CMakeFiles/a64fx.dir/**/{source}.o")
    return list(inner_loops(found))


def tiles_of(source):
    return [loop for loop in loops_of(source) if loop.count(*MULTIPLY_ADDS) == TILE]


def is_of_fp16(tile):
    return any(re.match(r"fmla\s+z\d+\.h", each) for each in tile.instructions)


@pytest.mark.parametrize(("source", "least"), [("matmul.cc", 0.95), ("attention.cc", 0.9)])
def test_every_tile_comes_close_to_the_modelled_peak(source, least):
    assert tiles_of(source)
    for loop in tiles_of(source):
        assert loop.count("ld1w", "ld1b", "ld1h", "ld1rw", "ld1rh") < TILE, f"it spills: {loop}"
        assert TILE / PIPES / modelled_cycles(loop.instructions) >= least, loop


STOCK = """
import jax.numpy as jnp
jnp.einsum("bmk,bnk->bmn", *2 * [jnp.ones((1, 64, 144))]).block_until_ready()
"""


def test_scores_take_few_modelled_cycles_beside_those_of_xla_itself():
    """A head's scores, [2048, 144] by [144, 2048], by the loops that the time is spent in.

    XLA multiplies fp16 by the same loop, in fp32. Ours ends each block of fp16 with its addition in
    fp32; of fp32, nothing beats four times the lanes where XLA's loop is at the peak too.
    """
    depth, block = 144, 48
    turns, stock = busiest_loop(python_command(["-c", STOCK]), timeout=600)
    lanes = 4 * sum(each.startswith("fmla") for each in stock)
    assert turns * lanes >= 0.9 * 64 * 64 * depth
    stock_rate = lanes / modelled_cycles(stock)
    rates = {True: [], False: []}
    for tile in tiles_of("matmul.cc"):
        cycles = depth * modelled_cycles(tile.instructions)
        if is_of_fp16(tile):
            assert sum(each.startswith("fcvt") for each in tile.around) == 2 * TILE
            cycles += depth / block * modelled_cycles(tile.around)
        products = depth * TILE * LANES * (2 if is_of_fp16(tile) else 1)
        rates[is_of_fp16(tile)].append(products / cycles / stock_rate)
    assert min(rates[False]) >= 3.95
    assert min(rates[True]) >= 6


# With all that these loops do beside it: attention's weights, the loss's softmax.
@pytest.mark.parametrize(("source", "most"), [("attention.cc", 1.0), ("cross_entropy.cc", 1.5)])
def test_an_exponential_of_a_softmax_takes_few_modelled_cycles(source, most):
    loops = [loop for loop in loops_of(source) if loop.count("fexpa")]
    assert loops
    for loop in loops:
        assert modelled_cycles(loop.instructions) / (loop.count("fexpa") * LANES) <= most, loop
