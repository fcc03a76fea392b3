"""Count what an emulated program executes, and model how long an A64FX would take for a loop."""

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from emulator import QEMU, run

PLUGIN = Path(__file__).parent / "count.c"


def count_fmla(
    command: list[str], *, env: Mapping[str, str] | None = None, timeout: float = 300
) -> dict[str, int]:
    """Run an emulated program and count its vector fused multiply-adds, in all its threads.

    Starting Python and importing JAX takes 8 of `sve_fp32`; what a part of a Python program takes
    is the difference of a run with it and one without.

    Args:
        command: What `emulator.program_command` or `emulator.python_command` gave.
        env: As in `emulator.run_python`.
        timeout: Seconds until it is ended.

    Returns:
        Instructions (not lanes) by kind: `sve_fp16`, `sve_fp32`, `sve_fp64`, whichever operand
        they overwrite or negate; `sve_indexed`, which A64FX runs slower; and `neon`, 128-bit ones
        of fp32 and fp64.

    Raises:
        EmulationError: the program failed.
    """
    assert command[0] == QEMU, "the emulator counts, so the command must begin with it"
    with tempfile.TemporaryDirectory() as folder:
        plugin, out = f"{folder}/count.so", Path(folder) / "counts.json"
        run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", str(PLUGIN), "-o", plugin])
        run([QEMU, "-plugin", f"{plugin},out={out}", *command[1:]], env=env, timeout=timeout)
        return json.loads(out.read_text())


def marked_loops(assembly: str) -> dict[str, str]:
    """Cut the marked parts out of a compiler's assembly.

    In the source, `asm volatile("# LLVM-MCA-BEGIN name")` is the first statement of a loop's body
    and `asm volatile("# LLVM-MCA-END")` the last. The compiler may move arithmetic over a marker,
    so a test of a part must also count what is in it.

    Returns:
        Each part's instructions, one a line, by its name.

    Raises:
        ValueError: two parts have one name, which happens if the compiler copied a loop.
    """
    loops: dict[str, str] = {}
    marked = re.compile(r"# LLVM-MCA-BEGIN (\S+)\n(.*?)# LLVM-MCA-END\b", re.DOTALL)
    for name, body in marked.findall(assembly):
        if name in loops:
            raise ValueError(f"The assembly has two parts that are marked {name}.")
        lines = (line.strip() for line in body.splitlines())
        # Comments, directives and labels are no instructions.
        kept = [each for each in lines if each and not re.match(r"[#./]|\S+:", each)]
        loops[name] = "\n".join(kept)
    return loops


def modelled_cycles(assembly: str, iterations: int = 1000) -> float:
    """Return the cycles of one turn of a loop, as LLVM's model of A64FX has it.

    The model knows units, latencies and ports, but no caches and no branches, and decodes six
    instructions a cycle where the chip decodes four: fit to compare loops, not to tell a speed.

    Args:
        assembly: The loop's instructions, one a line.
        iterations: Turns that are modelled; the first few cost more.

    Raises:
        ValueError: llvm-mca does not understand an instruction.
    """
    command = ["llvm-mca", "-mtriple=aarch64", "-mcpu=a64fx", f"-iterations={iterations}"]
    done = subprocess.run(command, input=assembly, capture_output=True, text=True, check=False)
    cycles = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if done.returncode or not cycles:
        raise ValueError(f"llvm-mca: {done.stderr.strip()}")
    return int(cycles[1]) / iterations
