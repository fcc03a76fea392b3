"""The same run on one device and on several processes; stopped on one mesh, continued on others."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.cluster.local import free_port
from fugaku_jax.run.metrics import read_samples

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).parents[2] / "launch"
REFUSED = Path(__file__).with_name("refused_meshes.py")
APART = Path(__file__).with_name("train_apart.py")
FOUR_HOSTS = Path(__file__).parents[1] / "cluster" / "four_hosts.sh"
RUN = {
    "model.vocab-size": 1200,
    "model.n-layers": 4,
    "model.d-model": 24,
    "model.n-heads": 6,
    "model.sequence-length": 24,
    "model.dropout": 0.1,
    "model.attention-dropout": 0.1,
    "optimizer.learning-rate": 1e-3,
    "optimizer.min-learning-rate": 0,
    # Keys have no gradient for their bias but rounding, which a small epsilon would blow up.
    "optimizer.epsilon": 1e-5,
    "training.steps": 6,
    "training.batch-size": 24,
    "training.micro-batches": 2,
    "training.sample-tokens": 4,
    "training.validate-every": 3,
    "training.validation-tokens": 500,
    "checkpoint.every": 3,
}
# The end, where it is validated, is left to those whose matter that is.
TWO_STEPS = {"training.stop-after": 2}
SAMPLES = {"training.sample-every": 2}
INTERLEAVED = {
    "mesh.tensor": 2,
    "mesh.pipeline": 2,
    "mesh.schedule": "interleaved",
    "mesh.chunks": 2,
    "mesh.weights": "zero1",
}


def command(run_dir, store, overrides):
    """Return the arguments of `launch/`'s programs for the run."""
    arguments = ["train.py", "tiny", "--run-dir", str(run_dir)]
    for name, value in (RUN | {"data.store": store} | overrides).items():
        arguments += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return arguments


def run(program, *arguments):
    """Run a program and return its exit code and what it complained of."""
    done = subprocess.run(
        [*program, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stderr


def train(run_dir, store, *, processes=1, devices=1, **overrides):
    """Run `launch/train.py` in one process, or in several that make no collective of all."""
    arguments = command(run_dir, store, overrides)
    if processes == 1:
        arguments += ["--emulate-devices", devices]
        return run([sys.executable, LAUNCH / arguments[0]], *arguments[1:])
    each = ["--devices-per-process", devices] if devices > 1 else []
    local = [sys.executable, LAUNCH / "cluster" / "local.py"]
    return run(local, "-n", processes, *each, "--", APART, *arguments)


def figures(run_dir, name="loss"):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return np.array([line[name] for line in map(json.loads, lines) if name in line])


def samples(run_dir, step):
    """What the run wrote after each prompt."""
    found = [each for each in read_samples(run_dir) if each["step"] == step]
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def one(tmp_path_factory, store_path):
    """The run on one device, never stopped."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    code, said = train(run_dir, store_path, **SAMPLES)
    assert code == 0, said
    return run_dir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, store_path):
    """The run on eight devices, stopped after three steps; its layers do not lie in their order."""
    run_dir = tmp_path_factory.mktemp("eight") / "run"
    code, said = train(
        run_dir,
        store_path,
        devices=8,
        **INTERLEAVED,
        **{"training.stop-after": 3, "training.validate-every": 0},
    )
    assert code == 75, said
    return run_dir


def test_two_processes_of_two_devices_train_as_one_device_does(one, tmp_path, store_path):
    mesh = {"mesh.tensor": 2, "mesh.pipeline": 2, "mesh.sequence-parallel": ()}
    code, said = train(tmp_path / "run", store_path, processes=2, devices=2, **mesh)
    assert code == 0, said
    for name in ("loss", "validation_loss", "validation_bits_per_byte"):
        np.testing.assert_allclose(figures(tmp_path / "run", name), figures(one, name), rtol=1e-5)
    assert samples(tmp_path / "run", 6) == samples(one, 6)


def test_four_hosts_with_addresses_of_their_own_train_as_one_device_does(
    one, tmp_path, store_path, unshare
):
    names = {"localhost": "127.0.0.1"} | {f"node{i}": f"10.7.0.{i + 1}" for i in range(4)}
    table = tmp_path / "hosts"
    table.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
    mesh = {"mesh.tensor": 2, "mesh.weights": "zero1", "mesh.collective": "torus"}
    program = [sys.executable, APART]
    arguments = command(tmp_path / "run", store_path, mesh | TWO_STEPS)
    code, said = run([*unshare, "bash"], FOUR_HOSTS, table, *program, *arguments)
    assert code == 75, said
    np.testing.assert_allclose(figures(tmp_path / "run"), figures(one)[:2], rtol=1e-5)


OWN = str(Path(sys.executable).parent)
OTHERS = os.pathsep.join(x for x in os.environ["PATH"].split(os.pathsep) if x != OWN)


def open_mpi_is_here():
    """Tell whether the first MPI outside of the environment is Open MPI, with its compiler."""
    if not shutil.which("mpicc", path=OTHERS):
        return False
    environ = os.environ | {"PATH": OTHERS}
    said = subprocess.run(["mpirun", "--version"], env=environ, capture_output=True, check=False)
    return b"Open MPI" in said.stdout


# Where mpirun and mpicc are looked for.
MPIS = [
    pytest.param(
        f"{OWN}{os.pathsep}{OTHERS}",
        id="MPICH",
        marks=pytest.mark.skipif(
            not Path(OWN, "mpicc").exists(), reason="needs MPICH: `pip install .[test]`"
        ),
    ),
    pytest.param(
        OTHERS,
        id="Open MPI",
        marks=pytest.mark.skipif(
            not open_mpi_is_here(), reason="needs `apt-get install openmpi-bin libopenmpi-dev`"
        ),
    ),
]


@pytest.mark.parametrize("path", MPIS)
@pytest.mark.parametrize(
    "mesh",
    [
        {"mesh.pipeline": 2, "mesh.weights": "fsdp"},
        {"mesh.tensor": 2, "mesh.sequence-parallel": ()},
    ],
    ids=["data and pipeline", "data and tensor"],
)
def test_four_processes_over_mpi_train_as_one_device_does(one, tmp_path, store_path, mesh, path):
    (tmp_path / "hosts").write_text("localhost slots=4\n")
    mesh = mesh | {"mesh.collective": "torus"}
    _, *arguments = command(tmp_path / "run", store_path, mesh | TWO_STEPS | SAMPLES)
    where = f"FUGAKU_JAX_COORDINATOR=localhost:{free_port()}"
    as_root = [f"OMPI_ALLOW_RUN_AS_ROOT{what}=1" for what in ("", "_CONFIRM")]  # as in a container
    script = LAUNCH / "cluster" / "mpirun.sh"
    program = ["env", f"PATH={path}", where, *as_root, script]
    code, said = run(program, tmp_path / "hosts", *arguments)
    assert code == 75, said
    assert "No sums over the torus" not in said
    np.testing.assert_allclose(figures(tmp_path / "run"), figures(one)[:2], rtol=1e-5)
    assert samples(tmp_path / "run", 2) == samples(one, 2)


@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [
        (1, 1, {}),
        (1, 3, {"mesh.tensor": 3}),
        (1, 24, {"mesh.tensor": 3, "mesh.pipeline": 2, "mesh.weights": "fsdp"}),
        (2, 1, {"mesh.weights": "zero1"}),
    ],
)
def test_a_checkpoint_of_eight_devices_goes_on_elsewhere(
    one, stopped, tmp_path, store_path, processes, devices, mesh
):
    shutil.copytree(stopped, tmp_path / "run")
    mesh |= TWO_STEPS
    code, said = train(tmp_path / "run", store_path, processes=processes, devices=devices, **mesh)
    assert code == 75, said
    np.testing.assert_allclose(figures(tmp_path / "run"), figures(one)[:5], rtol=1e-5)


DO_NOT_FIT = [
    (4, {"mesh.data": 3}, "is 3, but it must be 4, the number of devices"),
    (4, {"mesh.tensor": 4}, "model.n_heads is 6, but it must be a multiple of the 4"),
    (8, {"mesh.pipeline": 8}, "mesh.pipeline is 8, but model.n_layers is 4"),
    (5, {}, "multiple of the 5 mesh.data"),
    (0, {}, "--emulate-devices is 0"),
    (2, {"mesh.pipeline": 2, "mesh.layers": (1, 1)}, "sum to model.n_layers, 4"),
]


def test_a_mesh_that_does_not_fit_is_refused_and_nothing_written(tmp_path, store_path):
    commands = []
    for devices, overrides, _ in DO_NOT_FIT:
        arguments = command(tmp_path / "run", store_path, overrides | {"emulate-devices": devices})
        commands.append(list(map(str, arguments[1:])))
    code, said = run([sys.executable, REFUSED], tmp_path / "answers.json", json.dumps(commands))
    assert code == 0, said
    answers = json.loads((tmp_path / "answers.json").read_text())
    for (code, said), (*_, message) in zip(answers, DO_NOT_FIT, strict=True):
        assert code == 2, said
        assert message in said
        assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
