"""All ranks meet before anything starts: who is late is awaited, who is missing or differs named.

The ranks are threads of one process here; `tests/cluster` does the same with processes.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import socket
import time

import pytest

from fugaku_jax.cluster.hosts import Hosts, agree
from fugaku_jax.cluster.rendezvous import RendezvousError, meet, name_ranks
from fugaku_jax.errors import InputError


@pytest.fixture
def job():
    """Four ranks that meet on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [Hosts(4, rank, f"127.0.0.1:{port}", timeout_seconds=60.0) for rank in range(4)]


def at_once(call, ranks):
    """Call for each rank in a thread of its own; return the results or errors."""
    with concurrent.futures.ThreadPoolExecutor(len(ranks)) as pool:
        futures = [pool.submit(call, rank) for rank in ranks]
        return [future.exception() or future.result() for future in futures]


def everything(arrivals):
    return {str(rank): arrival.message for rank, arrival in arrivals.items()}


def test_rank_0_hears_all_and_all_hear_rank_0(job):
    answers = at_once(lambda h: meet(h, "test", {"square": h.rank**2}, everything), job)
    assert answers == [{str(rank): {"square": rank**2} for rank in range(4)}] * 4


@pytest.mark.parametrize("late", [0, 3])
def test_a_late_rank_is_awaited(job, late):
    def come(hosts):
        time.sleep(0.5 if hosts.rank == late else 0)
        return meet(hosts, "test", hosts.rank, everything)

    assert at_once(come, job) == [{str(rank): rank for rank in range(4)}] * 4


def test_missing_ranks_are_named_on_every_rank_that_is_there(job):
    there = [dataclasses.replace(job[rank], timeout_seconds=0.5) for rank in (0, 2)]
    for error in at_once(lambda h: meet(h, "test", None, everything), there):
        assert isinstance(error, RendezvousError)
        assert str(error).startswith("Ranks 1 and 3 of 4 did not arrive at 127.0.0.1:")


def test_when_nobody_comes_the_address_is_doubted(job):
    with pytest.raises(RendezvousError, match=f"Ranks 1–3.*address of {socket.gethostname()}"):
        meet(dataclasses.replace(job[0], timeout_seconds=0.1), "test", None, everything)


def test_without_rank_0_the_others_say_where_they_looked(job):
    with pytest.raises(RendezvousError, match=r"Rank 0 did not answer at 127.0.0.1:\d+ within 0.1"):
        meet(dataclasses.replace(job[1], timeout_seconds=0.1), "test", None, everything)


def test_a_refusal_reaches_every_rank(job):
    def refuse(_):
        raise InputError("no.")

    for error in at_once(lambda h: meet(h, "test", None, refuse), job):
        assert isinstance(error, InputError)
        assert str(error) == "no."


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rank": 2}, "Two processes say that they are rank 2"),
        ({"n_processes": 5}, "Rank 3 was told of 5 processes, but rank 0 of 4"),
    ],
)
def test_ranks_that_contradict_each_other_are_refused(job, change, sentence):
    # The three that do not contradict come first, so that it is the fourth who is refused.
    odd = dataclasses.replace(job[3], **change)

    def come(hosts):
        time.sleep(1 if hosts is odd else 0)
        return meet(hosts, "test", None, everything)

    errors = at_once(come, [*job[:3], odd])
    assert all(isinstance(error, InputError) and sentence in str(error) for error in errors)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\n",
        b"[1, 2]\n",
        json.dumps({"meeting": "other", "processes": 4, "rank": 1, "message": 0}).encode() + b"\n",
        json.dumps({"meeting": "test", "processes": 4, "rank": "1", "message": 0}).encode() + b"\n",
        b"x" * (2 << 20) + b"\n",
        b"",
    ],
    ids=["http", "bytes", "list", "other-meeting", "no-number", "too-long", "silent"],
)
def test_strangers_on_the_port_are_no_arrivals(job, line):
    host, port = job[0].coordinator.split(":")

    def come(hosts):
        if hosts.rank != 1:
            return meet(hosts, "test", hosts.rank, everything)
        while True:
            try:
                stranger = socket.create_connection((host, int(port)))
                break
            except OSError:
                time.sleep(0.01)
        with stranger:
            with contextlib.suppress(OSError):  # it may be shown the door before it is done
                stranger.sendall(line)
            return meet(hosts, "test", hosts.rank, everything)

    assert at_once(come, job) == [{str(rank): rank for rank in range(4)}] * 4


def test_a_taken_port_is_said(job):
    host, port = job[0].coordinator.split(":")
    with (
        socket.create_server((host, int(port))),
        pytest.raises(InputError, match=f"cannot listen on port {port}.*FUGAKU_JAX_COORDINATOR"),
    ):
        meet(job[0], "test", None, everything)


def test_what_is_not_rank_0_is_told_from_it(job):
    host, port = job[0].coordinator.split(":")
    with (
        socket.create_server((host, int(port))) as server,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(meet, job[1], "test", None, everything)
        connection, _ = server.accept()
        connection.sendall(b"220 mail.example.org ESMTP\r\n")
        connection.close()
        with pytest.raises(RendezvousError, match=r"is not rank 0 of this job|went away"):
            waiting.result()


CONFIGURATION = {
    "model": {"n_layers": 2, "d_model": 64},
    "training": {"seed": 1, "prompts": ["あ"]},
}


def test_ranks_with_one_configuration_go_on(job):
    assert at_once(lambda h: agree(h, "configuration", CONFIGURATION), job) == [None] * 4


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({2: {"seed": 7}}, "training.seed is 1 on ranks 0, 1 and 3 and 7 on rank 2"),
        ({0: {"seed": 0.5}}, "training.seed is 0.5 on rank 0 and 1 on ranks 1–3"),
        (
            {1: {"prompts": ["い"]}, 3: {"prompts": None}},
            'training.prompts is ["あ"] on ranks 0 and 2, ["い"] on rank 1 and null on rank 3',
        ),
        ({1: {"new": True}}, "training.new is missing on ranks 0, 2 and 3 and true on rank 1"),
    ],
)
def test_a_field_that_differs_is_named_with_its_values_and_ranks(job, others, said):
    def come(hosts):
        training = CONFIGURATION["training"] | others.get(hosts.rank, {})
        agree(hosts, "configuration", CONFIGURATION | {"training": training})

    for error in at_once(come, job):
        assert isinstance(error, InputError)
        assert f"do not have the same configuration: {said};" in str(error)


def test_many_differing_fields_and_values_stay_one_sentence(job):
    def come(hosts):
        agree(hosts, "configuration", {f"f{i}": hosts.rank * 10**i for i in range(9)})

    for error in at_once(come, job):
        assert "f0 is 0 on rank 0, 1 on rank 1, 2 on rank 2 and 1 other value;" in str(error)
        assert "; and 6 more; start" in str(error)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([3], "rank 3"),
        ([1, 2], "ranks 1 and 2"),
        ([5, 1, 3], "ranks 1, 3 and 5"),
        ([4, 5, 6], "ranks 4–6"),
        ([0, *range(2, 14_000), 20_000, 20_001], "ranks 0, 2–13999, 20000 and 20001"),
    ],
)
def test_ranks_are_spelled_out(ranks, words):
    assert name_ranks(ranks) == words
