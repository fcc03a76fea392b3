"""Set an emulated A64FX up: cross compiler, emulator, an arm64 Python and this package's wheels.

python tests/a64fx/setup.py    prints the folder, in the user's cache, where all of it is

Whatever is there is kept; what defines it gives the folder its name, so a change of a version makes
a new one. Without a network it works once it is complete. Exit codes: 0 done, 2 if something is
missing that only the user can bring, 1 anything else.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]

PROGRAMS = {  # the program, and the Debian package that brings it
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "cmake": "cmake",
    "qemu-aarch64": "qemu-user",
    "mmdebstrap": "mmdebstrap",
    "llvm-mca": "llvm",
    "gcc": "gcc",
}
SUITE = "bookworm"
PYTHON = "3.11"  # the one of the suite
ROOT_PACKAGES = (
    *("ca-certificates", "libffi8", "libgomp1", "libssl3", "libstdc++6", "zlib1g"),
    *(f"libpython{PYTHON}-stdlib", f"python{PYTHON}", f"python{PYTHON}-minimal"),
)
TEST_PACKAGES = ("beartype", "hypothesis", "pytest")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")

# LLVM learns from this file which CPU it compiles for; the values are those of Fugaku's nodes.
CPUINFO = """\
processor\t: {core}
BogoMIPS\t: 200.00
Features\t: fp asimd evtstrm sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm fcma dcpop sve
CPU implementer\t: 0x46
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0x001
CPU revision\t: 0

"""


# The machine's programs. Whatever the emulated Python starts as `sys.executable` is emulated too.
SCRIPTS = {
    f"python{PYTHON}": """\
#!/bin/sh
machine=${0%/bin/*}
export PATH="$machine/bin:$PATH" LD_LIBRARY_PATH= JAX_PLATFORMS=cpu
export PYTHONHOME="$machine/root/usr" PYTHONPATH="$EMULATED_PYTHONPATH:$machine/site"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$machine/compiled}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
python="$PYTHONHOME/bin/${0##*/}"
exec qemu-aarch64 -cpu "${QEMU_CPU:-a64fx}" -L "$machine/root" -0 "$0" "$python" "$@"
""",
    "c++": '#!/bin/sh\nexec aarch64-linux-gnu-g++ "$@"\n',
}


class CannotSetUp(Exception):
    """A sentence for the person at the keyboard."""


def main() -> int:
    """Set up what is missing, and print where it is."""
    try:
        print(set_up())
    except CannotSetUp as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def folder() -> Path:
    """Return where the emulated machine of this version of everything is, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    defines = json.dumps([SUITE, ROOT_PACKAGES, PLATFORMS, CPUINFO, SCRIPTS, _pins()])
    return cache / "fugaku_jax" / "a64fx" / hashlib.sha256(defines.encode()).hexdigest()[:16]


def set_up() -> Path:
    """Make the emulated machine unless it is there, and return its folder.

    `root` is the arm64 system, `site` the aarch64 packages, `bin` the programs to start, and
    `compiled` holds what JAX compiles.

    Raises:
        CannotSetUp: a program is missing, or a download failed.
    """
    _programs()
    done = folder()
    if done.is_dir():
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: what was interrupted is never taken for finished.
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=done.parent) as unfinished:
        made = Path(unfinished) / "machine"
        for name in ("root", "site", "bin", "compiled"):
            (made / name).mkdir(parents=True)
        _install_root(made)
        _install_wheels(made)
        for name, text in SCRIPTS.items():
            (made / "bin" / name).write_text(text)
            (made / "bin" / name).chmod(0o755)
        try:
            made.rename(done)
        except OSError:  # another set-up was faster
            if not done.is_dir():
                raise
    return done


def _programs() -> None:
    """Install the programs that are missing, if we may."""
    packages = sorted({PROGRAMS[each] for each in PROGRAMS if not shutil.which(each)})
    if not packages:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise CannotSetUp(
            "An emulated A64FX needs programs that are not installed; on Debian 12: "
            f"sudo apt-get install {' '.join(packages)}"
        )
    _say(f"installing {' '.join(packages)}")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    _run(["apt-get", "update", "-qq"])
    _run(["env", "DEBIAN_FRONTEND=noninteractive", *install])


def _install_root(made: Path) -> None:
    """Unpack Debian's arm64 packages and say which CPU it is; nothing of them is run."""
    _say(f"unpacking an arm64 {SUITE} with Python {PYTHON}")
    archive = made / "root.tar"
    # Chrootless, and as a tar file, it needs no rights that only root has; no devices either.
    how = ["--mode=chrootless", "--variant=extract", "--arch=arm64"]
    include = f"--include={','.join(ROOT_PACKAGES)}"
    _run(["mmdebstrap", *how, include, SUITE, str(archive)])
    _run(["tar", "-xf", str(archive), "-C", str(made / "root"), "--exclude=./dev/*"])
    archive.unlink()
    (made / "root" / "proc").mkdir(exist_ok=True)
    text = "".join(CPUINFO.format(core=core) for core in range(os.cpu_count() or 1))
    (made / "root" / "proc" / "cpuinfo").write_text(text)


def _install_wheels(made: Path) -> None:
    """Install the aarch64 wheels of what this package needs, in this environment's versions."""
    pins = _pins()
    _say(f"installing {len(pins)} aarch64 wheels")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}"]
    command += ["--implementation=cp", f"--target={made / 'site'}"]
    command += [f"--platform={each}_aarch64" for each in PLATFORMS]
    _run([*command, *pins])


def _pins() -> list[str]:
    """Return what this package and its tests need, and what that needs: `name==version`.

    A requirement that is not installed is one of another platform or Python.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    pins: dict[tuple[str, frozenset[str]], str] = {}
    waiting = [*project["dependencies"], *TEST_PACKAGES]
    while waiting:
        parts = re.match(r"([\w.-]+)\s*(?:\[([^]]*)])?", waiting.pop())
        assert parts
        name = re.sub(r"[-_.]+", "-", parts[1]).lower()
        extras = frozenset(re.findall(r"[\w.-]+", parts[2] or ""))
        if (name, extras) in pins:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        pins[name, extras] = f"{name}=={found.version}"
        for each in found.requires or ():
            asked = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", each)
            if not asked or asked[1] in extras:
                waiting.append(each)
    return sorted(set(pins.values()))


def _run(command: list[str]) -> None:
    """Run a command that may fail for want of a network or a package."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        end = "\n  ".join(said[-5:])
        raise CannotSetUp(f"`{' '.join(command[:4])} ...` failed:\n  {end}")


def _say(text: str) -> None:
    print(f"a64fx: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
