"""The emulated processor is an A64FX: it has 512-bit SVE, and what has none dies of it."""

import signal

import pytest
from emulator import EmulationError, compile, run_program, run_python

pytestmark = pytest.mark.a64fx

SAXPY = """
#include <arm_sve.h>
#include <cstdio>

int main() {
  float x[40], y[40];
  for (int i = 0; i < 40; i++) x[i] = i, y[i] = 1;
  for (int i = 0; i < 40; i += 16) {
    svbool_t rest = svwhilelt_b32(i, 40);
    svst1(rest, y + i, svmla_x(rest, svld1(rest, y + i), svld1(rest, x + i), 2.0f));
  }
  float sum = 0;
  for (float each : y) sum += each;
  std::printf("%d %g\\n", static_cast<int>(svcntw()), sum);
}
"""


@pytest.fixture(scope="module")
def saxpy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saxpy")
    (folder / "saxpy.cc").write_text(SAXPY)
    return compile([folder / "saxpy.cc"], folder / "saxpy")


def test_a_vector_has_16_words_and_a_tail_is_masked(saxpy):
    assert run_program(saxpy).split() == ["16", f"{40 + 2 * sum(range(40))}"]


def test_a_processor_without_sve_refuses_the_same_program(saxpy):
    with pytest.raises(EmulationError, match="Illegal instruction") as caught:
        run_program(saxpy, cpu="cortex-a76")
    assert caught.value.returncode == -signal.SIGILL


def test_an_instruction_of_sve2_is_refused(tmp_path):
    # `-cpu max` would run it, and so hide what no A64FX can run.
    (tmp_path / "sve2.cc").write_text('int main() { asm volatile("fcvtlt z0.s, p0/m, z1.h"); }')
    program = compile([tmp_path / "sve2.cc"], tmp_path / "sve2", ["-march=armv8-a+sve2"])
    run_program(program, cpu="max")
    with pytest.raises(EmulationError, match="Illegal instruction"):
        run_program(program)


def test_an_error_in_a_program_shows_what_it_said():
    with pytest.raises(EmulationError, match="ZeroDivisionError") as caught:
        run_python(["-c", "1 / 0"])
    assert caught.value.returncode == 1


def test_llvm_is_told_that_the_processor_is_an_a64fx():
    text = run_python(["-c", "print(open('/proc/cpuinfo').read())"])
    assert "CPU implementer\t: 0x46" in text
    assert "CPU part\t: 0x001" in text
    assert " sve" in text
