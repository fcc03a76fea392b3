"""What each launcher calls the rank, the number of processes and the place where they meet.

Sources: the manuals of Slurm (srun, "output environment variables"), Open MPI ("environment
variables set for MPI applications"), PRRTE, Fujitsu's job operation software (PJM), Kubeflow
(TrainJob, JAXJob) and PyTorch (torchrun). That the port follows from the job's number is JAX's
own habit: all ranks know it without talking. JAX's own detection knows, of all
these, Slurm, Open MPI up to 4 and, by asking its server, Kubernetes, and never how many hosts
there are; so it is not used.
"""

import itertools
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.errors import InputError

Environ = Mapping[str, str]


@dataclass(frozen=True)
class Launcher:
    """One launcher's variables; of several names for a thing the first that is set counts."""

    name: str
    """What people call it."""
    markers: tuple[str, ...]
    """It started this process if all of these are set."""
    rank: tuple[str, ...]
    """This process among all, from 0."""
    n_processes: tuple[str, ...]
    """Processes in the job; empty if the launcher does not tell."""
    coordinator: Callable[[Environ], str | None]
    """HOST:PORT at which rank 0 can be reached, or None if the launcher does not tell."""
    local_rank: tuple[str, ...] = ()
    """This process among those of its host, from 0."""
    local_processes: tuple[str, ...] = ()
    """Processes on this host."""
    n_hosts: tuple[str, ...] = ()
    """Hosts in the job."""


def expand_nodelist(text: str) -> list[str]:
    """List the hosts of Slurm's compressed notation: `node[001-003,7],gpu1` and the like.

    Raises:
        InputError: brackets do not fit, or what they hold is no range.
    """
    hosts: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text):
        pieces = [_alternatives(text, piece) for piece in re.split(r"(\[[^\]]*\])", part)]
        hosts += ["".join(each) for each in itertools.product(*pieces)]
    if not hosts or text.count("[") != text.count("]") or "[" in re.sub(r"\[[^\[\]]*\]", "", text):
        raise InputError(f"The node list {text!r} is not one that Slurm writes.")
    return hosts


def _alternatives(text: str, piece: str) -> list[str]:
    """List what one piece of a node list, plain or in brackets, stands for."""
    if not piece.startswith("["):
        return [piece]
    numbers: list[str] = []
    for each in piece[1:-1].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", each)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"{each!r} in the node list {text!r} is no range of numbers.")
        # Slurm pads every number of a range to the width of the first: 08-11 is 08 09 10 11.
        numbers += [
            str(number).zfill(len(match[1]))
            for number in range(int(match[1]), int(match[2] or match[1]) + 1)
        ]
    return numbers


def _at(host: str, job: str) -> str:
    """Return HOST:PORT, the port being the job's own among the 4,096 that no kernel hands out."""
    port = 61_440 + zlib.crc32(job.encode()) % 4_096
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _slurm(environ: Environ) -> str | None:
    # The first task runs on the first node of the step unless the distribution is arbitrary.
    host = expand_nodelist(environ["SLURM_STEP_NODELIST"])[0]
    return _at(host, f"{environ.get('SLURM_JOB_ID')}.{environ.get('SLURM_STEP_ID')}")


def _open_mpi(environ: Environ) -> str | None:
    """Return where mpirun runs; rank 0 is there too, unless a host file says otherwise."""
    # Open MPI 4: 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911 or …;tcp6://[fe80::1,2620::2]:4337
    uri = environ.get("OMPI_MCA_orte_hnp_uri", "")
    if match := re.search(r"tcp://([^,:;]+)|tcp6://\[([^,\]]+)", uri):
        return _at(match[1] or match[2], uri)
    # Open MPI 5 (PRRTE): prterun-HOST-PID@1. Its PMIX_SERVER_URI names each node's own daemon.
    namespace = environ.get("PMIX_NAMESPACE", "")
    if match := re.match(r"prte(?:run)?-(.+)-\d+@", namespace):
        return _at(match[1], namespace)
    return _pjm(environ)


def _pjm(environ: Environ) -> str | None:
    path = environ.get("PJM_O_NODEINF")
    if not path:
        return None
    try:
        nodes = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeError) as error:
        raise InputError(f"PJM_O_NODEINF is {path!r}, but it cannot be read: {error}.") from error
    return _at(nodes[0], environ.get("PJM_JOBID", "")) if nodes else None


def _variables(host: str, port: str) -> Callable[[Environ], str | None]:
    """Read HOST and PORT from two variables."""

    def read(environ: Environ) -> str | None:
        address = environ.get(host)
        if address and not environ.get(port):
            raise InputError(f"{host} is set, but {port} is not; set it in every process.")
        return address and (f"[{address}]" if ":" in address else address) + f":{environ[port]}"

    return read


LAUNCHERS = (
    # mpirun's daemons run under srun and pass Slurm's variables on, so Open MPI comes first.
    Launcher(
        "Open MPI",
        markers=("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        rank=("OMPI_COMM_WORLD_RANK",),
        n_processes=("OMPI_COMM_WORLD_SIZE",),
        coordinator=_open_mpi,
        local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
        local_processes=("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    # Only srun sets the step's node list. A batch script that starts Python itself has the rest.
    Launcher(
        "Slurm",
        markers=("SLURM_PROCID", "SLURM_STEP_NODELIST"),
        rank=("SLURM_PROCID",),
        n_processes=("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        coordinator=_slurm,
        local_rank=("SLURM_LOCALID",),
        n_hosts=("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
    ),
    Launcher(
        "PJM",
        markers=("PJM_JOBID", "PMIX_RANK"),
        rank=("PMIX_RANK",),
        n_processes=("PJM_MPI_PROC",),
        coordinator=_pjm,
        local_rank=("PLE_RANK_ON_NODE",),
        n_hosts=("PJM_NODE",),
    ),
    Launcher(
        "PMIx",
        markers=("PMIX_RANK",),
        rank=("PMIX_RANK",),
        n_processes=(),
        coordinator=_open_mpi,
    ),
    # MPICH, Intel MPI and Cray's.
    Launcher(
        "PMI",
        markers=("PMI_RANK", "PMI_SIZE"),
        rank=("PMI_RANK",),
        n_processes=("PMI_SIZE",),
        coordinator=lambda _: None,
        local_rank=("MPI_LOCALRANKID",),
        local_processes=("MPI_LOCALNRANKS",),
    ),
    Launcher(
        "Kubernetes",
        markers=("JAX_COORDINATOR_ADDRESS",),
        rank=("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),
        n_processes=("JAX_NUM_PROCESSES",),
        coordinator=lambda environ: environ["JAX_COORDINATOR_ADDRESS"],
    ),
    Launcher(
        "JAXJob",
        markers=("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"),
        rank=("PROCESS_ID",),
        n_processes=("NUM_PROCESSES",),
        coordinator=_variables("COORDINATOR_ADDRESS", "COORDINATOR_PORT"),
    ),
    Launcher(
        "torchrun's variables",
        markers=("RANK", "WORLD_SIZE"),
        rank=("RANK",),
        n_processes=("WORLD_SIZE",),
        coordinator=_variables("MASTER_ADDR", "MASTER_PORT"),
        local_rank=("LOCAL_RANK",),
        local_processes=("LOCAL_WORLD_SIZE",),
    ),
)
"""All that are known, in the order in which they are asked."""
