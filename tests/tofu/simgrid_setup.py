"""Set SimGrid up: Debian's packages of it, unpacked in the user's cache. Nothing is installed.

python tests/tofu/simgrid_setup.py    prints the folder

PyPI has SimGrid as sources only, which take Boost and many minutes to compile; Debian 12 has it
ready for its Python 3.11. What is there already is kept. Exit codes: 0 done, 2 if it cannot be had.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = (
    *("python3-simgrid", "libsimgrid3.32", "libns3.37", "libgsl27", "libgslcblas0"),
    *("libboost-context1.74.0", "libboost-stacktrace1.74.0", "libgfortran5"),
)
PYTHON = (3, 11)


class NoSimGrid(Exception):
    """A sentence that says why SimGrid cannot be had on this machine."""


def folder() -> Path:
    """Return where these packages are unpacked, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (
        cache / "fugaku_jax" / "simgrid" / hashlib.sha256(repr(PACKAGES).encode()).hexdigest()[:16]
    )


def set_up() -> Path:
    """Unpack the packages unless they are, and return their folder.

    Raises:
        NoSimGrid: this Python, or this system, is another than they were made for; or there is no
            network.
    """
    if sys.version_info[:2] != PYTHON:
        raise NoSimGrid(f"Debian 12 has SimGrid for Python {'.'.join(map(str, PYTHON))} only.")
    if (done := folder()).is_dir():
        return done
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise NoSimGrid("SimGrid is taken from Debian 12, and there is no apt-get here.")
    done.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=done.parent) as unfinished:
        here, root = Path(unfinished), Path(unfinished) / "root"
        if not _run(["apt-get", "download", "-qq", *PACKAGES], here):
            if os.geteuid() == 0:  # an image may come without the lists of packages
                _run(["apt-get", "update", "-qq"], here)
            if not _run(["apt-get", "download", "-qq", *PACKAGES], here):
                raise NoSimGrid("SimGrid's packages of Debian 12 cannot be fetched.")
        for package in here.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, root], check=True)
        try:
            root.rename(done)  # when complete: what was interrupted is never taken for finished
        except OSError:  # another process was faster
            if not done.is_dir():
                raise
    return done


def environment(root: Path) -> dict[str, str]:
    """Return the environment in which a Python finds `simgrid`."""
    libraries = root / "usr" / "lib"
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(next(libraries.glob("*-linux-gnu"))),
        "PYTHONPATH": str(libraries / "python3" / "dist-packages"),
    }


def _run(command: list[str], where: Path) -> bool:
    done = subprocess.run(command, cwd=where, capture_output=True, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    try:
        print(set_up())
    except NoSimGrid as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
