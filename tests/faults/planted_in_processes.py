"""Faults planted in a run of two processes, one session after another: what is seen of each.

Each session goes on by the same command where the one before was ended, and meets a fault of its
own; what meets the last, a NaN, does not end it. Steps that are taken again must be the same bit
for bit, and the losses of the run those of one process that meets the same NaN.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from planted import TOLD, Bench, Seen, plain

from fugaku_jax.config import Config, flat_fields
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.run.sessions import read_sessions

HERE = Path(__file__).parent
LAUNCH = HERE.parents[1] / "launch"
OPTIONS = [
    *("--training.no-self-test", "--training.hang-seconds", "5"),
    *("--training.check-replicas-every", "100"),
]
SICK_BATCH = 6
SICK_ROW = 3
"""Of the batch's four; rank 1 reads two."""
LAUNCHER = "the launcher killed"
"""Of a session of one process, which is enough to see it, and that processes may become fewer."""
FAULTS = {
    "one of two ranks stopped by SIGSTOP": "stop:1:4",
    "one of two ranks killed": "die:1:5",
    "rank 0 killed, and with it the coordinator": "die:0:5",
    "a flipped bit in one rank's copy of the weights": "flip:1:0",
    LAUNCHER: "launcher:0:4",
    "a NaN in one rank's gradient": "nothing:0:0",
}
"""In the order of sessions; what comes to which rank after which step (`befalls.py`)."""


def plant(bench: Bench) -> dict[str, Seen]:
    """Plant all faults, and return what was seen of each.

    Args:
        bench: what runs in one process.
    """
    run, alone = bench.folder / "two", bench.folder / "alone"
    sick = bench.rows(SICK_BATCH)[[SICK_ROW]]
    np.save(bench.folder / "sick.npy", sick)
    said, figures = [], []
    for name, befalls in FAULTS.items():
        said.append(session(bench, run, befalls, processes=1 if name == LAUNCHER else 2))
        figures.append(read_metrics(run))
    same = {(line["step"], line["loss"]) for each in figures[:3] for line in each}
    assert len(same) == max(map(len, figures[:3]))
    bench.poisoned_session(alone, sick)
    ours, theirs = read_metrics(run), read_metrics(alone)
    assert [x["skipped"] for x in ours] == [x["skipped"] for x in theirs]
    # Two processes add up in another order than one.
    np.testing.assert_allclose(
        [x["loss"] for x in ours], [x["loss"] for x in theirs], rtol=1e-5, atol=0
    )
    taken, starts = map(len, figures), [each.steps_before for each in read_sessions(run)]
    lost = [steps - start for steps, start in zip(taken, [*starts[1:], len(ours)], strict=True)]
    return {
        name: Seen(words, code, steps)
        for name, (code, words), steps in zip(FAULTS, said, lost, strict=True)
    }


def session(bench: Bench, run_dir: Path, befalls: str, processes: int) -> tuple[int, str]:
    """Train by the launcher; return its exit code, and what was said of the fault."""
    local = [sys.executable, str(LAUNCH / "cluster" / "local.py"), "-n", str(processes), "--"]
    train = [str(HERE / "befalls.py"), str(LAUNCH / "train.py"), "tiny"]
    mesh = ["--mesh.data", str(processes), "--run-dir", str(run_dir)]
    done = subprocess.run(
        [*local, *train, *arguments(bench.config), *OPTIONS, *mesh],
        env=os.environ | {"BEFALLS": befalls, "POISON": str(bench.folder / "sick.npy")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stdout.replace(str(run_dir), "RUN").replace(socket.gethostname(), "HOST")
    told = plain(" ".join(line for line in said.splitlines() if TOLD.match(line)))
    # A rank says once a second how far it is, so that may be behind.
    told = re.sub(r", after step \d+(?=[:.])", "", told)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, told


def arguments(config: Config) -> list[str]:
    """Return how train.py is told of a configuration: what differs from the recipe `tiny`."""
    from recipes import load_recipe  # of launch/, where `planted` has Python look

    before = flat_fields(load_recipe("tiny").to_dict())
    found = []
    for name, value in flat_fields(config.to_dict()).items():
        if value != before[name]:
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found
