"""Executed instructions are counted exactly, and a loop's modelled cycles tell good from bad."""

import pytest
from emulator import A64FX_FLAGS, compile, program_command
from instructions import count_fmla, marked_loops, modelled_cycles

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
    asm volatile("# LLVM-MCA-BEGIN tile");
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 8
      for (int column = 0; column < COLUMNS; column++)
        sums[row][column] += a[k * ROWS + row] * b[k * COLUMNS + column];
    asm volatile("# LLVM-MCA-END");
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


def compiled_tile(folder, rows, columns, *flags):
    source = folder / "tile.cc"
    source.write_text(TILE + MAIN)
    sizes = [f"-DROWS={rows}", f"-DCOLUMNS={columns}", "-DDEPTH=321"]
    return compile([source], folder / "tile", [*A64FX_FLAGS, *sizes, *flags])


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


def test_eight_rows_by_three_vectors_reach_the_modelled_peak(tmp_path):
    loop = marked_loops(compiled_tile(tmp_path, 8, 3, "-S").read_text())["tile"]
    assert loop.count("fmla") == 24
    assert modelled_cycles(loop) == pytest.approx(24 / PIPES, rel=0.01)


def test_four_sums_wait_for_each_other_in_the_model(tmp_path):
    loop = marked_loops(compiled_tile(tmp_path, 4, 1, "-S").read_text())["tile"]
    assert loop.count("fmla") == 4
    share_of_peak = 4 / PIPES / modelled_cycles(loop)
    assert share_of_peak == pytest.approx(0.22, abs=0.01)  # 4 sums / (2 pipes x 9 cycles)


def test_a_loop_that_the_compiler_copied_is_refused():
    part = "# LLVM-MCA-BEGIN twice\n\tfadd z0.s, z0.s, z1.s\n# LLVM-MCA-END\n"
    with pytest.raises(ValueError, match="two parts that are marked twice"):
        marked_loops(part + part)


def test_an_instruction_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="llvm-mca"):
        modelled_cycles("nonsense z0, z1")
