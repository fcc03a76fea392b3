"""Run the tests of the native kernels under the address and undefined-behaviour sanitizers.

`python sanitize.py [PYTEST'S ARGUMENTS]`, by `make sanitize`. The kernels are installed once more,
into build/sanitized, compiled with the sanitizers (the option SANITIZE in CMakeLists.txt); as that
folder comes first in PYTHONPATH, they are found before the environment's own.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "sanitized"


def main() -> int:
    """Build, test, and return pytest's exit code."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--upgrade", "--target", PLACE),
            *("--config-settings", "build-dir=build/sanitize"),
            *("--config-settings", "install.strip=false"),  # reports name files and lines
            *("--config-settings", "cmake.define.SANITIZE=ON", ROOT),
        ],
        check=True,
    )
    environment = os.environ | {
        # Python itself is not compiled with them, so their libraries have to be there before it.
        "LD_PRELOAD": " ".join(map(_library, ("libasan.so", "libubsan.so", "libstdc++.so.6"))),
        # What Python and jaxlib leave behind when they end is not ours to mend.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(PLACE),
    }
    sums = ROOT / "tests" / "collectives"
    rooms = ROOT / "tests" / "kernels", sums / "test_native_sums.py", sums / "test_started.py"
    tests = [*rooms, "-k", "not reference", "-m", "not a64fx"]
    # A report goes to the process's own standard error, and then the process ends: pytest must not
    # keep it for later.
    command = [sys.executable, "-m", "pytest", "--capture=sys", *tests, *sys.argv[1:]]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def _library(name: str) -> str:
    """Return where the compiler has one of its libraries."""
    command = ["c++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
