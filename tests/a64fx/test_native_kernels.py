"""The native kernels on the emulated A64FX: right, in SVE, no more work than the arithmetic's."""

import re
import signal

import jax
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

LEFT_OUT = {
    "test_attention.py": "XLA's blockwise attention beside the native one, which has its own tests",
    "test_dropout.py": "XLA's masks; the native ones are among the tests of attention",
    "test_loss_curve.py": "hundreds of steps",
    "test_pairs.py": "an instruction of x86",
    "test_sanitizers.py": "for `make sanitize`",
}
KERNEL_TESTS = sorted(
    path.name
    for path in (PROJECT / "tests" / "kernels").glob("test_*.py")
    if path.name not in LEFT_OUT
)
PIPES = 2
"""Fused multiply-adds that an A64FX can start in a cycle."""
LANES = 16


@pytest.mark.long
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
    assert run_program(compile_with_kernels(tmp_path, DENORMALS)).split() == ["11", "01", "11"]


def compile_with_kernels(folder, source, *flags):
    """Compile a program that includes headers of the kernels."""
    (folder / "program.cc").write_text(source)
    headers = (PROJECT / "fugaku_jax" / "kernels" / "native", jax.ffi.include_dir())
    includes = [f"-isystem{each}" for each in headers]
    isa = '-DISA="isa/a64fx.h"'
    return compile(
        [folder / "program.cc"], folder / "program", [*A64FX_FLAGS, *includes, isa, *flags]
    )


# Rows and columns of the products in a block of the 13B model that six processes share; of the two
# in attention, one head.
SHAPES_13B = {
    "qkv": (2048, 2592),
    "scores": (2048, 2048),
    "values": (2048, 144),
    "out": (2048, 5184),
    "up": (2048, 3456),
    "down": (2048, 5184),
}
DEPTH = 16
PRODUCTS = f"""
import sys
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from fugaku_jax.kernels import native
from fugaku_jax.kernels.matmul import einsum
assert native.loaded() == "a64fx"
shapes = {list(SHAPES_13B.values())}
for rows, columns in shapes[: int(sys.argv[3])]:
    shapes_of_operands = (rows // int(sys.argv[2]), {DEPTH}), ({DEPTH}, columns)
    x, y = (jnp.asarray(np.ones(shape, sys.argv[1])) for shape in shapes_of_operands)
    z = np.asarray(einsum("mk,kn->mn", x, y, PartitionSpec()))
    assert z.min() == z.max() == {DEPTH}
"""


# A tile's 3 registers of columns are computed even if they are not full. QEMU takes long for fp16.
@pytest.mark.parametrize(
    ("dtype", "kind", "panel", "fewer"), [("f4", "sve_fp32", 48, 1), ("f2", "sve_fp16", 96, 16)]
)
def test_products_of_the_13b_model_execute_the_multiply_adds_of_their_arithmetic(
    dtype, kind, panel, fewer
):
    commands = (python_command(["-c", PRODUCTS, dtype, fewer, count]) for count in (0, 6))
    none, all_ = (count_fmla(command, timeout=900) for command in commands)
    expected = sum(
        rows // fewer * DEPTH * -(-columns // panel) * 3 for rows, columns in SHAPES_13B.values()
    )
    more = {each: all_[each] - none[each] for each in none}
    assert more == dict.fromkeys(none, 0) | {kind: expected}


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
        assert loop.count("st1w", "st1b") == 0, f"it spills: {loop}"
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


EXPONENTIALS = """
#include "elementary.h"
using namespace vector;

extern "C" void exponentials(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += 4 * LANES)
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) store(EXPONENTIAL(X), x + i + j * LANES);
}
"""


@pytest.mark.parametrize("one", ["exp(X)", "exp2(X - 3.0f, 0.1f)"])
def test_an_exponential_takes_a_modelled_cycle_at_most(tmp_path, one):
    source = EXPONENTIALS.replace("EXPONENTIAL(X)", one.replace("X", "load(x + i + j * LANES)"))
    (loop,) = inner_loops(compile_with_kernels(tmp_path, source, "-c"))
    assert loop.count("fexpa") == 4
    assert modelled_cycles(loop.instructions) / (4 * LANES) <= 1.0
