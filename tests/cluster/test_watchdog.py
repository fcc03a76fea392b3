"""Who does not get on is named, and all end: ranks that are silent, lost, behind, or stuck.

The ranks are watchdogs of one process here, which look a hundred times a second, and sockets that
say what a rank would; at the end of the file they are processes, as in tests/faults.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fugaku_jax.cluster import watchdog as module
from fugaku_jax.cluster.heartbeat import Meeting, listen
from fugaku_jax.cluster.rank_names import RankNames
from fugaku_jax.cluster.watchdog import Watchdog

BEAT = 0.01
KEY = "key"
PLACE = "x1 y0 z2 a0 b0 c1"
SECOND = f"2 (node2, {PLACE})"
STATE = "waiting in training/trainer.py, line 74 (_finish)"


class Ends(list):
    """The sentences with which watchdogs have ended their processes."""

    def wait(self, number=1):
        """Wait for so many, and return them."""
        deadline = time.monotonic() + 60
        while len(self) < number:
            assert time.monotonic() < deadline
            time.sleep(BEAT)
        return list(self)


@pytest.fixture
def ends():
    return Ends()


@pytest.fixture
def begin(ends):
    """Begin to watch as a rank of three; all are closed at the end."""
    begun, server = [], listen("127.0.0.1")
    address = server.getsockname()

    def begin(rank):
        names = RankNames({r: f"node{r}" for r in range(3)}, {2: PLACE})
        meeting = Meeting(3, rank, address if rank else server, KEY)
        begun.append(Watchdog(meeting, names, end=ends.append, beat=BEAT))
        return begun[-1]

    begin.address = address
    yield begin
    for each in begun:
        each.close()
    server.close()


def speak(address, rank, *lines, key=KEY):
    """Connect as a rank, and say something."""
    connection = socket.create_connection(address)
    for line in ({"key": key, "rank": rank}, *lines):
        connection.sendall(json.dumps(line).encode() + b"\n")
    return connection


def test_a_silent_rank_is_named_everywhere_with_its_host_its_place_and_its_step(begin, ends, capfd):
    speaking = speak(begin.address, 2, {"step": 7, "doing": STATE})
    for rank in (0, 1):
        begin(rank).watch(0.3, step=7)
    sentence = f"Rank {SECOND} has been silent for 0.3 s, after step 7"
    assert ends.wait(2) == [f"{sentence}: stopped, or out of reach."] * 2
    assert capfd.readouterr().err.count("test_watchdog.py") >= 2  # the stacks of both
    speaking.close()


def test_rank_0_is_named_by_the_others_when_it_is_silent(begin, ends):
    for rank in (1, 2):  # what they connect to is never served
        begin(rank).watch(0.3, step=0)
    sentence = "Rank 0 (node0) has been silent for 0.3 s: stopped, or out of reach."
    assert ends.wait(2) == [sentence] * 2


def test_a_rank_that_has_ended_is_named_at_once_and_one_that_said_so_before_is_not(
    begin, ends, monkeypatch
):
    monkeypatch.setattr(module, "LOST_SECONDS", 0.2)
    ended = speak(begin.address, 2, {"step": 7, "doing": STATE})
    begin(0)
    begin(1).close()  # as a program does that comes to its end
    ended.close()
    assert ends.wait() == [
        "Rank 2 (node2, x1 y0 z2 a0 b0 c1) ended before the others, after step 7."
    ]


def test_when_all_leave_nobody_is_blamed_whoever_is_first(begin, ends, monkeypatch):
    monkeypatch.setattr(module, "LOST_SECONDS", 0.0)
    ranks = [begin(rank) for rank in range(3)]
    for each in (ranks[1], ranks[0]):
        each.close()
        time.sleep(20 * BEAT)
    ranks[2].close()
    assert ends == []


def test_the_rank_that_is_behind_is_named_and_says_where_it_is(begin, ends):
    waiting = "waiting in data/loader.py, line 77 (__iter__)"
    words = {1: {"step": 9, "doing": STATE}, 2: {"step": 8, "doing": waiting}}
    ranks = {rank: speak(begin.address, rank) for rank in words}
    begin(0).watch(0.03, step=9)
    while not ends:
        for rank, each in ranks.items():
            each.sendall(json.dumps(words[rank]).encode() + b"\n")
        time.sleep(BEAT)
    sentence = f"No step was completed for 0.3 s: rank {SECOND} is {waiting} after step 8; "
    assert ends[0].startswith(sentence)
    assert f"rank 1 (node1) is {STATE} after step 9" in ends[0]


def test_strangers_are_no_ranks_and_cannot_end_a_job(begin, ends):
    verdict = {"ends": "I said so.", "stacks": False}
    for line, key in ((verdict, "guess"), (["no object"], KEY), ("x" * 100_000, KEY)):
        stranger = speak(begin.address, 1, line, key=key)
        if key != KEY:
            begin(0)
            assert stranger.recv(1) == b""
    assert "I said so." not in ends


@pytest.fixture
def alone(ends):
    """Watch a single process."""
    begun = Watchdog(end=ends.append, beat=BEAT)
    yield begun
    begun.close()


def test_a_step_that_hangs_ends_a_single_process_with_its_stacks(alone, ends, capfd):
    alone.watch(0.02, step=4)
    alone.completed(5, long=False)
    assert "rank 0 is waiting in the program after step 5" in ends.wait()[0]
    assert "Thread 0x" in capfd.readouterr().err


def test_what_is_slow_from_the_first_and_what_is_more_than_a_step_has_its_time(
    alone, ends, monkeypatch
):
    monkeypatch.setattr(module, "MULTIPLE", 4)

    def after(seconds):
        """Let the watchdog see so many seconds pass."""
        before = alone._awake
        while alone._awake < before + seconds and not ends:
            time.sleep(BEAT)

    alone.watch(0.1, step=0)
    after(0.2)  # the first step: up to four times 0.1 s
    alone.completed(1, long=False)
    after(0.08)
    alone.completed(2, long=False)
    after(0.2)  # up to four times 0.08 s
    alone.completed(3, long=True)
    after(0.5)  # up to four times 0.2 s
    assert ends == []
    alone.completed(4, long=False)
    assert "after step 4" in ends.wait()[0]


def test_time_in_which_the_whole_job_was_suspended_does_not_count(alone, ends, monkeypatch):
    alone.watch(60.0, step=0)
    alone.completed(1, long=False)
    clock = time.monotonic
    monkeypatch.setattr(module.time, "monotonic", lambda: clock() + 3600)
    before = alone._awake
    while alone._awake < before + 5 * BEAT:
        time.sleep(BEAT)
    assert ends == []


def test_at_rest_nothing_is_due_and_no_thread_is_left(alone, ends):
    before = threading.enumerate()
    alone.watch(0.01, step=0)
    alone.rest()
    assert ends == []
    for thread in set(threading.enumerate()) - set(before):
        thread.join(20)  # a busy machine may take its time to end it
        assert not thread.is_alive()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_late_ends_though_the_next_has_begun(alone, monkeypatch):
    monkeypatch.setattr(threading.Thread, "join", lambda *_: None)  # as on a busy machine
    threads = []
    for _ in range(5):
        alone.watch(10, step=0)
        threads.append(alone._thread)
        alone.rest()
    monkeypatch.undo()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_thread_that_begins_late_leaves_the_next_one_its_own(monkeypatch):
    gate, begun, look = threading.Event(), [], Watchdog._look

    async def begin_late(self, *own):
        begun.append(own)
        if len(begun) == 1:
            gate.wait(20)
        await look(self, *own)

    monkeypatch.setattr(Watchdog, "_look", begin_late)
    join = threading.Thread.join
    monkeypatch.setattr(threading.Thread, "join", lambda *_: None)
    watchdog = Watchdog(beat=60.0)  # what is not woken sleeps longer than this test waits
    threads = []
    for number in (1, 2):
        watchdog.watch(0.0, step=0)
        threads.append(watchdog._thread)
        while len(begun) < number:
            time.sleep(BEAT)
        if number == 1:
            watchdog.rest()
    gate.set()
    time.sleep(20 * BEAT)
    watchdog.rest()
    for thread in threads:
        join(thread, 20)
        assert not thread.is_alive()


def test_a_rank_whose_launcher_has_gone_is_asked_once_to_save_and_stop(monkeypatch):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    parent = os.getppid()
    watchdog = Watchdog(parent=parent, beat=BEAT)
    watchdog.watch(0.0, step=0)
    time.sleep(5 * BEAT)
    assert came == []
    monkeypatch.setattr(module.os, "getppid", lambda: 1)
    time.sleep(20 * BEAT)
    watchdog.close()
    signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


HERE = Path(__file__).parent
LOCAL = HERE.parents[1] / "launch" / "cluster" / "local.py"


@pytest.mark.slow
def test_if_rank_0_of_two_processes_is_stopped_the_other_says_so_and_both_end():
    program = str(HERE / "reduce_program.py")
    done = subprocess.run(
        [sys.executable, str(LOCAL), "-n", "2", "--", program, "stop", "0"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    said = f"[rank 1] error: Rank 0 ({socket.gethostname()}) has been silent for 5 s, after step 3"
    assert said in done.stderr
