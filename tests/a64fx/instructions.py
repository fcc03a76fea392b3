"""Count what an emulated program executes, and model how long an A64FX would take for a loop."""

import json
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from emulator import run

PLUGIN = Path(__file__).parent / "count.c"
DISASSEMBLE = ("aarch64-linux-gnu-objdump", "--no-show-raw-insn")


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
    counts = _executed(command, env, timeout)
    del counts["blocks"]
    return counts


def busiest_loop(
    command: list[str], *, env: Mapping[str, str] | None = None, timeout: float = 300
) -> tuple[int, list[str]]:
    """Run an emulated program and return its loop that multiplies and adds most often.

    Arguments and errors are those of `count_fmla`. QEMU cuts a long loop into blocks, which have
    run equally often.

    Returns:
        How often it was run, and its instructions.
    """
    blocks = _executed(command, env, timeout)["blocks"]
    turns = max(executed for executed, _ in blocks)
    words = [word for executed, code in reversed(blocks) if executed == turns for word in code]
    with tempfile.TemporaryDirectory() as folder:
        (binary := Path(folder) / "code").write_bytes(struct.pack(f"<{len(words)}I", *words))
        shown = run([*DISASSEMBLE, "-D", "-b", "binary", "-m", "aarch64", str(binary)])
    return turns, [text for _, text in _instructions(shown)]


def _executed(command: list[str], env: Mapping[str, str] | None, timeout: float) -> dict[str, Any]:
    """Return what the plugin has counted."""
    with tempfile.TemporaryDirectory() as folder:
        plugin, out = f"{folder}/count.so", Path(folder) / "counts.json"
        run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", str(PLUGIN), "-o", plugin])
        run(command, env={"QEMU_PLUGIN": f"{plugin},out={out}", **(env or {})}, timeout=timeout)
        return json.loads(out.read_text())


def _instructions(disassembly: str) -> list[tuple[int, str]]:
    found = re.findall(r"^ *([0-9a-f]+):\t(.*?)\s*(?://.*)?$", disassembly, re.MULTILINE)
    return [(int(address, 16), text) for address, text in found]


class Loop(NamedTuple):
    """A loop without a loop in it, as a binary has it."""

    function: str
    instructions: list[str]
    around: list[str]
    """What the next loop around it does before and after it; nothing if there is none."""

    def count(self, *names: str) -> int:
        """Return how many of its instructions are these, on SVE registers."""
        words = (each.split() for each in self.instructions)
        return sum(word[0] in names and word[1].startswith(("z", "{z")) for word in words)


def inner_loops(binary: str | Path) -> Iterator[Loop]:
    """Yield the innermost loops of a program, library or object file for AArch64.

    A branch back, within a function, ends a loop. Loops that call something are left out.
    """
    for part in run([*DISASSEMBLE, "-d", "-C", str(binary)]).split("\n\n"):
        name = re.match(r"\s*[0-9a-f]+ <(.*)>:\n", part)
        if name:
            for body, around in _innermost(dict(_instructions(part))):
                yield Loop(name[1], body, around)


def _innermost(code: dict[int, str]) -> Iterator[tuple[list[str], list[str]]]:
    backwards = re.compile(r"(?:b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s*([0-9a-f]+) <")
    jumps = ((at, backwards.match(text)) for at, text in code.items())
    loops = [(int(to[1], 16), at) for at, to in jumps if to and int(to[1], 16) in code]
    loops = [(start, end) for start, end in loops if start <= end]
    for start, end in loops:
        if any(start <= a and b <= end for a, b in loops if (a, b) != (start, end)):
            continue
        body = [text for at, text in code.items() if start <= at < end]
        if any(text.startswith(("bl\t", "blr\t")) for text in body):
            continue
        outer = [(a, b) for a, b in loops if a <= start and end < b]
        first, last = min(outer, key=lambda each: each[1] - each[0], default=(start, end))
        yield body, [code[at] for at in code if first <= at < start or end < at < last]


def modelled_cycles(instructions: Iterable[str], iterations: int = 1000) -> float:
    """Return the cycles of one turn of a loop, as LLVM's model of A64FX has it.

    The model knows units, latencies and ports, but no caches and no branches, and decodes six
    instructions a cycle where the chip decodes four: fit to compare loops, not to tell a speed.

    Args:
        instructions: The loop's. The model of LLVM 14 lacks FMSB; it is given FMLS, which the same
            unit computes in the same time.
        iterations: Turns that are modelled; the first few cost more.

    Raises:
        ValueError: llvm-mca does not understand an instruction.
    """
    branches = re.compile(r"(b|b\.\w+|cbn?z|tbn?z)\s")
    known = (re.sub(r"^fmsb\b", "fmls", each) for each in instructions if not branches.match(each))
    command = ["llvm-mca", "-mtriple=aarch64", "-mcpu=a64fx", f"-iterations={iterations}"]
    text = "\n".join(known)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    cycles = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if done.returncode or not cycles:
        raise ValueError(f"llvm-mca: {done.stderr.strip()}")
    return int(cycles[1]) / iterations
