"""Run programs on the emulated A64FX that `setup.py` made: results and counts, never speed."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from libraries import INSTALLED
from setup import PROJECT, PYTHON, folder

QEMU = "qemu-aarch64"
COMPILER = "aarch64-linux-gnu-g++"
CROSS_LIBRARIES = Path("/usr/aarch64-linux-gnu")
PYTHONPATH = f"{PROJECT}:{Path(__file__).parent}:{INSTALLED}"
A64FX_FLAGS = ("-std=c++20", "-O3", "-mcpu=a64fx", "-msve-vector-bits=512")


class EmulationError(Exception):
    """A program ended with an error or was killed; the message has the end of what it printed.

    `returncode` is the program's, minus the signal's number if a signal killed it.
    """

    def __init__(self, command: list[str], returncode: int, stdout: str, stderr: str) -> None:
        ends = ("\n".join(printed.splitlines()[-40:]) for printed in (stdout, stderr))
        super().__init__("\n".join((f"exit code {returncode} of {' '.join(command)}", *ends)))
        self.returncode = returncode


def machine() -> Path:
    """Return the folder of the emulated machine; raises FileNotFoundError if it was not set up."""
    place = folder()
    if not place.is_dir():
        raise FileNotFoundError(f"{place} is missing: `make a64fx` makes it.")
    return place


def python_command(args: Iterable[str | Path]) -> list[str]:
    """Return the command that runs the emulated machine's Python with `args`.

    Run by `run`, it imports this package from the source tree, and its dependencies from the
    aarch64 wheels.
    """
    return [str(machine() / "bin" / f"python{PYTHON}"), *map(str, args)]


def program_command(
    path: str | Path, args: Iterable[str | Path] = (), *, cpu: str = "a64fx"
) -> list[str]:
    """Return the command that runs a program which `compile` made."""
    return [QEMU, "-cpu", cpu, "-L", str(CROSS_LIBRARIES), str(path), *map(str, args)]


def run_python(
    args: Iterable[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> str:
    """Run the emulated machine's Python and return what it printed.

    Args:
        args: Its arguments: a file and the file's arguments, or `-c` and text.
        env: Variables beside PATH and HOME; of our own environment it sees no other. QEMU_CPU is
            the processor, by its name in QEMU.
        timeout: Seconds until it is ended.

    Raises:
        EmulationError: it failed.
        subprocess.TimeoutExpired: it took too long.
    """
    return run(python_command(args), env=env, timeout=timeout)


def run_program(
    path: str | Path,
    args: Iterable[str | Path] = (),
    *,
    cpu: str = "a64fx",
    timeout: float = 300,
) -> str:
    """Run a program that `compile` made and return what it printed; `cpu` is QEMU's name for one.

    Else as `run_python`.
    """
    return run(program_command(path, args, cpu=cpu), timeout=timeout)


def compile(
    sources: Iterable[str | Path], out: str | Path, flags: Iterable[str] = A64FX_FLAGS
) -> Path:
    """Compile C++ for the A64FX with the cross compiler, and return `out`.

    `-S` among the flags gives assembly, `-shared -fPIC` a library. Raises EmulationError with what
    the compiler said.
    """
    run([COMPILER, *flags, *map(str, sources), "-o", str(out)])
    return Path(out)


def run(command: list[str], *, env: Mapping[str, str] | None = None, timeout: float = 300) -> str:
    """Run any command in the source tree with a clean environment; else as `run_python`."""
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=clean_environment() | {"EMULATED_PYTHONPATH": PYTHONPATH} | dict(env or {}),
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EmulationError(command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Return the variables that a program needs, without those that the tests have set for JAX."""
    kept = ("HOME", "PATH", "TMPDIR", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in kept if name in os.environ}
