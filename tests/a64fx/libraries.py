"""Build the native kernels for the emulated A64FX, by the flags that an install on one would use.

python tests/a64fx/libraries.py    after setup.py; builds again only what has changed

Exit codes: 0 done, 1 it cannot be built.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setup import PROJECT

FOLDER = PROJECT / "build" / "aarch64"
INSTALLED = FOLDER / "site"
"""Where the emulated Python finds the kernels, beside the source tree: as a package's files are."""

METADATA = "Metadata-Version: 2.1\nName: fugaku-jax\nVersion: 0\n"


def main() -> int:
    """Compile, and install beside a note that a package is there."""
    jaxlib = importlib.util.find_spec("jaxlib")
    assert jaxlib is not None
    assert jaxlib.origin is not None
    target = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "XLA_INCLUDE_DIR": str(Path(jaxlib.origin).parent / "include"),
    }
    definitions = [f"-D{name}={value}" for name, value in target.items()]
    run("-S", str(PROJECT), "-B", str(FOLDER), *definitions)
    run("--build", str(FOLDER), "--parallel", str(len(os.sched_getaffinity(0))))
    run("--install", str(FOLDER), "--prefix", str(INSTALLED))
    note = INSTALLED / "fugaku_jax-0.dist-info" / "METADATA"
    note.parent.mkdir(exist_ok=True)
    note.write_text(METADATA)
    return 0


def run(*args: str) -> None:
    """Run CMake; what it says comes if it fails."""
    done = subprocess.run(["cmake", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


if __name__ == "__main__":
    sys.exit(main())
