"""What every test runs under: CPU only, shapes and types checked, one mesh over all devices.

A test that takes more than some five seconds of a core, or whose file makes something that does, is
marked `slow`; `make test FAST=1` leaves it out, and with it what only whole trainings, several
devices or processes, another version of transformers, notebooks and benchmarks can show.
"""

import gc
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# The tests compile hundreds of tiny programs and run each once: LLVM's optimiser would take
# three quarters of their time, and of what is left XLA's newer emitters of fused loops take half.
# Cutting a program into 32 parts for 32 threads of LLVM's, and telling XLA the lines of Python that
# each operation comes from, take an eighth of what is left then.
# Tests of speed start processes of their own; what is said of memory is compiled with those
# emitters, as in a run.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} "
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

# Many tests compile the same step. The cache lives as long as the session, so that nothing stale
# is ever run; a worker of pytest-xdist has that of the process that started it, and of the others.
os.environ["JAX_COMPILATION_CACHE_DIR"] = (
    os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "PYTEST_XDIST_WORKER" in os.environ
    else tempfile.mkdtemp(prefix="fugaku_jax-tests-")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Programs of `launch/` keep theirs as users' do: all ranks find what one has compiled.
os.environ["FUGAKU_JAX_COMPILED"] = f"{os.environ['JAX_COMPILATION_CACHE_DIR']}/programs"

import pytest
from jaxtyping import install_import_hook

# In every module that says what shapes its arrays have, annotations are checked on each call, so a
# shape that a docstring promises is a shape that the tests have seen. (It takes 0.1 ms a call, so
# other modules are left to the type checker.) Left out are the modules of what a step changes, as
# JAX rebuilds these pytrees with abstract leaves, with specs and with flags, which annotations of
# arrays refuse; the drawing of curves, with a call for each number of a page; and benchmarks.
_PACKAGE = Path(__file__).parents[1] / "fugaku_jax"
_STATES = {f"training/{name}.py" for name in ("adamw", "precision", "spikes", "state")}
_LEFT_OUT = (*_STATES, "report/curves.py", "benchmarks/")
_SHAPED = [
    ".".join(("fugaku_jax", *path.with_suffix("").parts)).removesuffix(".__init__")
    for path in (file.relative_to(_PACKAGE) for file in _PACKAGE.rglob("*.py"))
    if not str(path).startswith(_LEFT_OUT) and "jaxtyping" in (_PACKAGE / path).read_text("utf-8")
]
install_import_hook(_SHAPED, "checked_once.check")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests, for no worker to be left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Have Python look for garbage less often, and never among what has been imported.

    Tracing makes objects by the ten thousand, and the searches took a twelfth of a test's time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_unconfigure() -> None:
    """Remove the cache, where it was made."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def mesh():
    """The mesh that a run would make on this machine."""
    from fugaku_jax.layout.mesh import active, make_mesh

    mesh, _ = make_mesh()
    with active(mesh):
        yield mesh


@pytest.fixture(scope="session")
def run_emulated():
    """Run a program in a process in which JAX sees so many devices; return what it prints."""

    def run(program, devices, *arguments):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        command = [sys.executable, program, *arguments]
        environment = os.environ | {"XLA_FLAGS": flags}
        done = subprocess.run(
            command, env=environment, check=True, timeout=1800, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    return run


@pytest.fixture(scope="session")
def unshare():
    """The command that makes fresh namespaces, as whoever runs the tests."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("network namespaces need the programs unshare and ip")
    command = ["unshare", "--net", "--mount", "--uts"]
    trial = ["sh", "-c", "mount -t tmpfs tmpfs /run && ip link add type veth && ip netns add a"]
    for each in ([*command, "--map-root-user"], command):
        done = subprocess.run([*each, *trial], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return each
    return pytest.skip(f"this machine does not let us make namespaces: {done.stderr.strip()}")


@pytest.fixture
def data_program(monkeypatch, capsys):
    """Run `launch/data.py` in this process; return its exit code and what it prints."""
    launch = _PACKAGE.parent / "launch"
    monkeypatch.syspath_prepend(launch)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data.py", *map(str, arguments)])
        capsys.readouterr()
        code = runpy.run_path(str(launch / "data.py"))["main"]()
        return code, capsys.readouterr().out

    return run
