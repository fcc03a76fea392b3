"""Writes the scripts of a planned job, and checks them as far as that goes without the machine.

They are those of `launch/cluster`, with the nodes, the processes and the run's arguments filled in.
"""

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fugaku_jax.errors import InputError, RunError
from fugaku_jax.planning.job_plan import JobPlan
from fugaku_jax.planning.mesh_plan import write_rank_map
from fugaku_jax.tofu.allocation import fold, parse_shape, read_vcoordfile

RANK_MAP = "rank_map.txt"


def write_job(plan: JobPlan, arguments: Sequence[str], scripts: Path, folder: Path) -> Path:
    """Write a job into a directory: for a torus PJM's, else Slurm's and mpirun's.

    Args:
        plan: what is to run.
        arguments: of `launch/train.py`: the recipe, and what differs from it.
        scripts: the directory of the scripts that are filled in, `launch/cluster`.
        folder: where to.

    Returns:
        `folder`.

    Raises:
        InputError: it cannot be written.
        RunError: what was written is not right; the sentence says what.
    """
    torus = plan.machine.network.topology == "torus"
    local, cores = plan.config.mesh.local, plan.machine.node.cores
    nodes = plan.compiled.devices // local
    run = shlex.join(arguments)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if torus:
            job = parse_shape(plan.nodes)
            write_rank_map(plan.config, folder / RANK_MAP)
            kind = ":torus:strict-io" if job.torus else ":mesh"
            shape = "x".join(map(str, job.shape)) + kind
            changes = {
                r'^#PJM -L "node=.*"$': f'#PJM -L "node={shape}"',
                r'^#PJM --mpi "max-proc.*"$': f'#PJM --mpi "max-proc-per-node={local}"',
                r"^nodes=\d+": f"nodes={nodes}",
                r"^per_node=\d+": f"per_node={local}",
                r"^recipe=\(.*\)$": f"recipe=({run} --training.stop-before-limit 1800)",
                r"^rank_map=\S+": f"rank_map={folder / RANK_MAP}",
                r"^# The size of Fugaku-LLM's .*\n# torus\. ": f"# {shape}. ",
            }
            _fill(scripts / "pjm.sh", folder / "pjm.sh", changes)
            where = {r"launch/cluster/pjm\.sh": str(folder / "pjm.sh")}
            _fill(scripts / "pjm_steps.sh", folder / "pjm_steps.sh", where)
        else:
            changes = {
                r"^#SBATCH --nodes=\d+": f"#SBATCH --nodes={nodes}",
                r"^#SBATCH --ntasks-per-node=\d+.*": f"#SBATCH --ntasks-per-node={local}",
                r"^#SBATCH --cpus-per-task=\d+.*": f"#SBATCH --cpus-per-task={cores // local}",
                r"^set -euo pipefail$": f'set -euo pipefail\n\nset -- {run} "$@"',
            }
            _fill(scripts / "slurm.sh", folder / "slurm.sh", changes)
            _fill(
                scripts / "mpirun.sh",
                folder / "mpirun.sh",
                {r"^shift$": f'shift\nset -- {run} "$@"'},
            )
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}.") from None
    check_job(plan, folder)
    return folder


def check_job(plan: JobPlan, folder: Path) -> None:
    """Check a job that was written: the shells' grammar, PJM's rules, and where each rank goes.

    Raises:
        RunError: something is not right.
    """
    for script in sorted(folder.glob("*.sh")):
        said = subprocess.run(
            ["bash", "-n", str(script)], capture_output=True, text=True, check=False
        )
        if said.returncode:
            raise RunError(f"{script} is no script that bash can read: {said.stderr.strip()}")
    if plan.machine.network.topology == "torus":
        _check_pjm(plan, folder)


def _check_pjm(plan: JobPlan, folder: Path) -> None:
    text = (folder / "pjm.sh").read_text()
    asked = _only(r'^#PJM -L "node=(.*)"$', text)
    job, local = parse_shape(asked), int(_only(r"^per_node=(\d+)", text))
    torus = fold(job)
    if job.nodes * local != plan.compiled.devices or int(_only(r"^nodes=(\d+)", text)) != job.nodes:
        raise RunError(f"{folder}/pjm.sh asks for {asked}, which is not what was planned.")
    if int(_only(r'^#PJM --mpi "max-proc-per-node=(\d+)"', text)) != local:
        raise RunError(f"{folder}/pjm.sh starts another number of processes a node than {local}.")
    places = read_vcoordfile(folder / RANK_MAP, job, local).torus_coordinates()
    expected = np.repeat(np.arange(job.nodes), local)
    if not np.array_equal(torus.numbers(places), expected):
        raise RunError(f"{folder / RANK_MAP} does not count the nodes as the mesh does.")


def _only(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise RunError(f"The job's script has no line like {pattern}.")
    return found[1]


def _fill(source: Path, target: Path, changes: Mapping[str, str]) -> None:
    """Write a script with each of some lines changed."""
    text = source.read_text()
    for pattern, line in changes.items():
        text, found = re.subn(pattern, lambda _, line=line: line, text, flags=re.MULTILINE)
        if not found:
            raise RunError(f"{source} has no line like {pattern} any more.")
    target.write_text(text)
    target.chmod(0o755)
