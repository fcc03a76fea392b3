"""A process finds its place among the others from each launcher's variables, or says why not."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fugaku_jax.cluster.hosts import Hosts, find_hosts, join
from fugaku_jax.cluster.launchers import expand_nodelist
from fugaku_jax.errors import InputError

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_JOB_NODELIST": "node[001-006]",
    "SLURM_STEP_NODELIST": "node[003-006]",
}
# As Open MPI 4.1.4 and 5.0.11 set them, but for the addresses.
OPEN_MPI_4 = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_MCA_orte_hnp_uri": "1833172992.0;tcp://192.0.2.2,10.0.0.9:54851;tcp6://[fd00::2]:53205",
    "PMIX_NAMESPACE": "1833172993",
    "PMIX_RANK": "1",
    "PMIX_SERVER_URI41": "1833172992.0;tcp4://127.0.0.1:55759",
}
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-gpu-node-7-3409@1",
    "PMIX_RANK": "3",
    "PMIX_SERVER_URI41": "prterun-gpu-node-7-3409@0.1;tcp4://127.0.0.1:36339",
    "PRTE_LAUNCHED": "1",
}
PJM = {
    "PJM_JOBID": "123456",
    "PJM_NODE": "2",
    "PJM_MPI_PROC": "8",
    "PMIX_RANK": "6",
    "PLE_RANK_ON_NODE": "2",
}
OURS = {
    "FUGAKU_JAX_COORDINATOR": "node9:7000",
    "FUGAKU_JAX_PROCESSES": "3",
    "FUGAKU_JAX_PROCESS": "2",
}
JAX = {"JAX_COORDINATOR_ADDRESS": "job-node-0-0.job:29500", "JAX_NUM_PROCESSES": "4"}
JAXJOB = {
    "COORDINATOR_ADDRESS": "jaxjob-worker-0",
    "COORDINATOR_PORT": "6666",
    "NUM_PROCESSES": "4",
    "PROCESS_ID": "1",
}
TORCH = {
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "master-0",
    "MASTER_PORT": "29500",
}

FOUND = {
    # name: variables; rule, rank, processes, local rank, hosts, the coordinator's host
    "slurm": (SLURM, "Slurm", 5, 8, 1, 4, "node003"),
    "open_mpi_4": (OPEN_MPI_4, "Open MPI", 1, 2, 0, 2, "192.0.2.2"),
    "open_mpi_4_with_ipv6_only": (
        OPEN_MPI_4 | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp6://[2620:10d::3000:2,fd00::2]:43370"},
        *("Open MPI", 1, 2, 0, 2, "[2620:10d::3000:2]"),
    ),
    "open_mpi_5": (OPEN_MPI_5, "Open MPI", 3, 4, 1, 2, "gpu-node-7"),
    # mpirun's daemons are tasks of Slurm and pass its variables on.
    "open_mpi_under_slurm": (SLURM | OPEN_MPI_5, "Open MPI", 3, 4, 1, 2, "gpu-node-7"),
    # srun --mpi=pmix
    "slurm_with_pmix": (SLURM | {"PMIX_RANK": "5"}, "Slurm", 5, 8, 1, 4, "node003"),
    "pmix": (
        {"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-a-5@1", "FUGAKU_JAX_PROCESSES": "2"},
        *("PMIx", 1, 2, None, None, "a"),
    ),
    "pmi": (
        {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
        | {"FUGAKU_JAX_COORDINATOR": "a:7000"},
        *("PMI", 1, 4, 1, 1, "a"),
    ),
    "kubernetes": (
        JAX | {"JAX_PROCESS_ID": "1"},
        *("Kubernetes", 1, 4, None, None, "job-node-0-0.job"),
    ),
    "kubernetes_indexed_job": (
        JAX | {"JOB_COMPLETION_INDEX": "3"},
        *("Kubernetes", 3, 4, None, None, "job-node-0-0.job"),
    ),
    "jaxjob": (JAXJOB, "JAXJob", 1, 4, None, None, "jaxjob-worker-0"),
    "torch": (TORCH, "torchrun's variables", 2, 4, 0, 2, "master-0"),
    "ours": (OURS, "FUGAKU_JAX_PROCESS", 2, 3, None, None, "node9"),
    "ours_win": (SLURM | OPEN_MPI_4 | OURS, "FUGAKU_JAX_PROCESS", 2, 3, None, None, "node9"),
    "our_coordinator_with_slurm": (
        SLURM | {"FUGAKU_JAX_COORDINATOR": "[fd00::7]:99"},
        *("Slurm", 5, 8, 1, 4, "[fd00::7]"),
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_launchers_variables_say_who_and_where_we_are(case):
    environ, *expected, host = FOUND[case]
    hosts = find_hosts(environ)
    found = [hosts.rule, hosts.rank, hosts.n_processes, hosts.local_rank, hosts.n_hosts]
    assert found == expected
    assert hosts.coordinator.rpartition(":")[0] == host


@pytest.mark.parametrize("environ", [SLURM, OPEN_MPI_4, OPEN_MPI_5])
def test_all_ranks_of_a_job_and_no_other_job_compute_the_same_port(environ):
    def port(**changes):
        return find_hosts(environ | changes).coordinator.rpartition(":")[2]

    rank = next(name for name in environ if name in ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))
    assert port(**{rank: "0"}) == port(**{rank: "1"})
    # 4,096 ports above those that Linux hands out by itself; two jobs seldom meet on one.
    assert 61_440 <= int(port()) < 65_536
    job = {
        "SLURM_JOB_ID": "4712",
        "PMIX_NAMESPACE": "prterun-gpu-node-7-3410@1",
        "OMPI_MCA_orte_hnp_uri": "1833172999.0;tcp://192.0.2.2:54855",
    }
    assert port() != port(**{name: value for name, value in job.items() if name in environ})


def test_pjm_takes_the_coordinator_from_its_node_file(tmp_path):
    nodes = tmp_path / "nodes"
    nodes.write_text("10.1.2.3\n10.1.2.4\n")
    hosts = find_hosts(PJM | {"PJM_O_NODEINF": str(nodes)})
    assert (hosts.rule, hosts.rank, hosts.n_processes) == ("PJM", 6, 8)
    assert (hosts.local_rank, hosts.n_hosts) == (2, 2)
    assert hosts.coordinator.startswith("10.1.2.3:")
    with pytest.raises(InputError, match="PJM_O_NODEINF is '/nowhere'"):
        find_hosts(PJM | {"PJM_O_NODEINF": "/nowhere"})


def test_without_a_launcher_there_is_only_this_process():
    assert find_hosts({}) is None
    # A batch script that starts Python without srun is one process, whatever the job asked for.
    batch = {k: v for k, v in SLURM.items() if not k.startswith("SLURM_STEP")}
    assert find_hosts(batch | {"SLURM_PROCID": "0", "PJM_JOBID": "5"}) is None


def test_one_process_needs_no_coordinator():
    hosts = find_hosts({"PMI_RANK": "0", "PMI_SIZE": "1"})
    assert (hosts.n_processes, hosts.rank, hosts.coordinator) == (1, 0, None)


def test_arguments_win_over_all_variables():
    hosts = find_hosts(OURS, coordinator="a:1", n_processes=9, rank=8)
    assert (hosts.coordinator, hosts.n_processes, hosts.rank) == ("a:1", 9, 8)
    assert find_hosts(OURS, rank=0).rank == 0


def test_time_out_and_collectives_are_read():
    assert find_hosts(OURS) == Hosts(3, 2, "node9:7000", rule="FUGAKU_JAX_PROCESS")
    hosts = find_hosts(OURS | {"FUGAKU_JAX_TIMEOUT": "7.5", "FUGAKU_JAX_COLLECTIVES": "mpi"})
    assert (hosts.timeout_seconds, hosts.collectives) == (7.5, "mpi")


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (SLURM | {"SLURM_PROCID": "8"}, "SLURM_PROCID is 8.*0 to 7.*SLURM_STEP_NUM_TASKS is 8"),
        (SLURM | {"SLURM_PROCID": "one"}, "SLURM_PROCID is 'one'.*whole number"),
        (SLURM | {"SLURM_STEP_NODELIST": "node[3-"}, "'node\\[3-'"),
        (OPEN_MPI_4 | {"OMPI_COMM_WORLD_SIZE": "0"}, "OMPI_COMM_WORLD_SIZE is 0.*at least one"),
        (OPEN_MPI_4 | {"OMPI_COMM_WORLD_RANK": "-1"}, "OMPI_COMM_WORLD_RANK is -1.*0 to 1"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "2 processes.*FUGAKU_JAX_COORDINATOR"),
        ({"PMIX_RANK": "1"}, "PMIX_RANK is set, but FUGAKU_JAX_PROCESSES is not"),
        (PJM, "8 processes.*FUGAKU_JAX_COORDINATOR"),
        (JAX, "JAX_PROCESS_ID or JOB_COMPLETION_INDEX or FUGAKU_JAX_PROCESS is not"),
        (TORCH | {"MASTER_PORT": ""}, "MASTER_ADDR is set, but MASTER_PORT is not"),
        (JAXJOB | {"COORDINATOR_PORT": "many"}, "coordinator of JAXJob is 'jaxjob-worker-0:many'"),
        (
            OURS | {"FUGAKU_JAX_COORDINATOR": "node9"},
            "FUGAKU_JAX_COORDINATOR is 'node9'.*HOST:PORT",
        ),
        (OURS | {"FUGAKU_JAX_COORDINATOR": "a:70000"}, "'a:70000'.*HOST:PORT"),
        (
            OURS | {"FUGAKU_JAX_PROCESS": ""},
            "FUGAKU_JAX_COORDINATOR is set, but FUGAKU_JAX_PROCESS ",
        ),
        ({"FUGAKU_JAX_PROCESS": "0"}, "FUGAKU_JAX_PROCESS is set, but FUGAKU_JAX_PROCESSES is not"),
        (OURS | {"FUGAKU_JAX_TIMEOUT": "soon"}, "FUGAKU_JAX_TIMEOUT is 'soon'.*seconds"),
        (OURS | {"FUGAKU_JAX_TIMEOUT": "0"}, "FUGAKU_JAX_TIMEOUT is '0'"),
        (
            OURS | {"FUGAKU_JAX_COLLECTIVES": "nccl"},
            "FUGAKU_JAX_COLLECTIVES is 'nccl'.*gloo or mpi",
        ),
    ],
)
def test_contradicting_variables_are_named(environ, sentence):
    with pytest.raises(InputError, match=sentence):
        find_hosts(environ)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node001", ["node001"]),
        ("a,b-1,c", ["a", "b-1", "c"]),
        ("node[001-003,7]", ["node001", "node002", "node003", "node7"]),
        ("n[08-11],gpu1", ["n08", "n09", "n10", "n11", "gpu1"]),
        ("rack[1-2]n[1,3]-ib", ["rack1n1-ib", "rack1n3-ib", "rack2n1-ib", "rack2n3-ib"]),
    ],
)
def test_slurms_node_lists_are_spelled_out(text, hosts):
    assert expand_nodelist(text) == hosts


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), min_size=1, max_size=4), st.data()
)
def test_any_list_of_ranges_is_spelled_out_in_order(ranges, data):
    width = data.draw(st.integers(3, 6))
    text = ",".join(
        f"{low:0{width}}-{low + more:0{width}}" if more else f"{low:0{width}}"
        for low, more in ranges
    )
    numbers = itertools.chain(*(range(low, low + more + 1) for low, more in ranges))
    assert expand_nodelist(f"n[{text}]") == [f"n{number:0{width}}" for number in numbers]


@pytest.mark.parametrize("text", ["", "n[1-2", "n1-2]", "n[[1]]", "n[2-1]", "n[a]", "n[]", ","])
def test_what_is_no_node_list_is_refused(text):
    with pytest.raises(InputError, match="node list"):
        expand_nodelist(text)


@pytest.mark.parametrize("coordinator", ["127.0.0.1:7000", "localhost:7000", "[::1]:7000"])
def test_a_loopback_coordinator_is_refused_for_several_hosts(coordinator):
    hosts = find_hosts(SLURM | {"FUGAKU_JAX_COORDINATOR": coordinator})
    with pytest.raises(InputError, match=r"leads back to the host that asks.*Slurm.*4 hosts"):
        join(hosts)


def test_a_single_process_does_nothing_and_imports_nothing_heavy():
    program = """
import sys
from fugaku_jax.cluster.hosts import agree, find_hosts, join
for hosts in (find_hosts({}), find_hosts({"PMI_RANK": "0", "PMI_SIZE": "1"})):
    agree(hosts, "configuration", {"a": 1})
    join(hosts)
assert not {"jax", "numpy"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)
