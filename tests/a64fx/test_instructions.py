"""Executed instructions are counted exactly, and a loop's modelled cycles tell good from bad."""

import pytest
from emulator import A64FX_FLAGS, compile, program_command
from instructions import busiest_loop, count_fmla, inner_loops, modelled_cycles

pytestmark = pytest.mark.a64fx

# Each line is of one kind, in the order of the counts below; the last line is none of them.
KINDS = """
int main() {
  for (int i = 0; i < 1000; i++)
    asm volatile(
        "ptrue p0.b\\n"
        "fmla z0.h, p0/m, z1.h, z2.h\\n"
        "fmla z0.s, p0/m, z1.s, z2.s \\n fmad z3.s, p0/m, z1.s, z2.s \\n"
        "fmls z4.s, p0/m, z1.s, z2.s \\n fnmsb z4.s, p0/m, z1.s, z2.s\\n"
        "fmla z0.d, p0/m, z1.d, z2.d\\n"
        "fmla z5.s, z1.s, z2.s[1] \\n fmla z5.h, z1.h, z2.h[5] \\n fmls z5.d, z1.d, z2.d[1]\\n"
        "fmla v6.4s, v1.4s, v2.4s \\n fmla v6.2d, v1.2d, v2.2d \\n fmls v6.4s, v1.4s, v2.s[3]\\n"
        "fmul z7.s, z1.s, z2.s[1] \\n fcmla z7.s, p0/m, z1.s, z2.s, #0 \\n fmul v7.2d, v1.2d, v2.2d"
        ::: "p0", "v0", "v3", "v4", "v5", "v6", "v7");
}
"""

# Eight rows times three vectors, as in a matrix product: 24 sums that do not wait for each other.
TILE = """
typedef float Vector __attribute__((vector_size(64)));

extern "C" void tile(const float* a, const Vector* b, Vector* c, long depth) {
  Vector sums[ROWS][COLUMNS];
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
    for (int column = 0; column < COLUMNS; column++) sums[row][column] = Vector{};
  for (long k = 0; k < depth; k++) {
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
      for (int column = 0; column < COLUMNS; column++)
        sums[row][column] += a[k * ROWS + row] * b[k * COLUMNS + column];
  }
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
    for (int column = 0; column < COLUMNS; column++) c[row * COLUMNS + column] = sums[row][column];
}
"""
MAIN = """
#include <vector>
int main() {
  std::vector<Vector> b(DEPTH * COLUMNS), c(ROWS * COLUMNS);
  std::vector<float> a(DEPTH * ROWS, 1.0f);
  tile(a.data(), b.data(), c.data(), DEPTH);
}
"""
PIPES = 2
"""Fused multiply-adds that an A64FX can start in a cycle."""


def compiled_tile(folder, rows, columns):
    source = folder / "tile.cc"
    source.write_text(TILE + MAIN)
    sizes = [f"-DROWS={rows}", f"-DCOLUMNS={columns}", "-DDEPTH=321"]
    return compile([source], folder / "tile", [*A64FX_FLAGS, *sizes])


def inner_loop(program):
    """The loop of a compiled tile."""
    loops = [loop for loop in inner_loops(program) if loop.function == "tile"]
    assert len(loops) == 1
    return loops[0]


def test_every_kind_of_multiply_add_is_counted_and_nothing_else(tmp_path):
    (tmp_path / "kinds.cc").write_text(KINDS)
    program = compile([tmp_path / "kinds.cc"], tmp_path / "kinds")
    counts = count_fmla(program_command(program))
    assert counts == {
        "sve_fp16": 1000,
        "sve_fp32": 4000,
        "sve_fp64": 1000,
        "sve_indexed": 3000,
        "neon": 3000,
    }


def test_a_compiled_product_executes_one_multiply_add_a_vector_of_products(tmp_path):
    counts = count_fmla(program_command(compiled_tile(tmp_path, 8, 3)))
    assert counts["sve_fp32"] == 321 * 8 * 3
    assert counts["sve_indexed"] == 0


def test_the_busiest_loop_is_the_one_that_multiplies_and_adds_most(tmp_path):
    turns, loop = busiest_loop(program_command(compiled_tile(tmp_path, 8, 3)))
    assert turns == pytest.approx(321, abs=1)  # the first may be entered elsewhere
    assert sum(text.startswith("fmla") for text in loop) == 24


def test_eight_rows_by_three_vectors_reach_the_modelled_peak(tmp_path):
    loop = inner_loop(compiled_tile(tmp_path, 8, 3))
    assert loop.count("fmla") == 24
    assert modelled_cycles(loop.instructions) == pytest.approx(24 / PIPES, rel=0.01)


def test_four_sums_wait_for_each_other_in_the_model(tmp_path):
    loop = inner_loop(compiled_tile(tmp_path, 4, 1))
    assert loop.count("fmla") == 4
    share_of_peak = 4 / PIPES / modelled_cycles(loop.instructions)
    assert share_of_peak == pytest.approx(0.22, abs=0.01)  # 4 sums / (2 pipes x 9 cycles)


def test_of_loops_within_each_other_the_innermost_is_found_and_none_that_calls(tmp_path):
    (tmp_path / "loops.cc").write_text("""
        extern "C" void call();
        extern "C" void loops(long n) {
          for (long i = 0; i < n; i++) {
            for (long j = 0; j < i; j++) asm volatile("add z0.s, z1.s, z2.s" ::: "v0");
            asm volatile("sub z0.s, z1.s, z2.s" ::: "v0");
          }
          for (long i = 0; i < n; i++) call();
        }
    """)
    binary = compile([tmp_path / "loops.cc"], tmp_path / "loops.o", [*A64FX_FLAGS, "-c"])
    loops = list(inner_loops(binary))
    assert [(each.count("add"), each.count("sub")) for each in loops] == [(1, 0)]
    assert [text.split()[0] for text in loops[0].around if "z0" in text] == ["sub"]


def test_an_instruction_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="llvm-mca"):
        modelled_cycles(["nonsense z0, z1"])
