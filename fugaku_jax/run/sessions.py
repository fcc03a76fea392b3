"""The sessions of a run: what each ran on and where its time went, as `sessions.json` says it.

Source of the word goodput: Google Cloud, "Introducing ML Productivity Goodput", 2024: the share of
time in which steps were taken that led further.
"""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import typed
from fugaku_jax.processor import processor_name
from fugaku_jax.run.whole_file import write_json

SESSIONS_FILE = "sessions.json"


@dataclass(frozen=True)
class Seconds:
    """Where the time of a session went, in seconds of the process that writes; nothing twice."""

    steps: float = 0.0
    """In steps that updated the weights."""
    skipped: float = 0.0
    """In steps that did not."""
    start: float = 0.0
    """From the start of the process to that of the training: imports, joining the others."""
    restore: float = 0.0
    """Making the first state, or reading it from a checkpoint."""
    compile: float = 0.0
    data: float = 0.0
    """While the devices had no batch."""
    save: float = 0.0
    """While they waited for a checkpoint, be it the last one at the end."""
    validation: float = 0.0
    samples: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Session:
    """What a session ran on, and what became of its time."""

    steps_before: int
    """Steps taken when it began."""
    processor: str
    """Name of the processor of the process that writes."""
    processes: int
    """Processes of the run."""
    devices: int
    """Devices of all processes."""
    seconds: Seconds = field(default_factory=Seconds)
    """As they were last written: with each checkpoint, and at the end."""
    has_ended: bool = False
    """Whether it came to its end, rather than being killed."""
    repeated: float = 0.0
    """Seconds in steps that the next session took again, for it began before them."""


def record_session(
    run_dir: Path, first: int, processes: int, devices: int, repeated: float = 0.0
) -> None:
    """Write down what this session runs on.

    Args:
        run_dir: the run.
        first: steps taken before it.
        processes: of the run.
        devices: of all processes.
        repeated: seconds in the steps after `first` of the session before, which come again.
    """
    sessions = _all_sessions(run_dir)
    if sessions:
        before = sessions[-1]
        # One that was killed told no more after its last checkpoint.
        untold = 0.0 if before.has_ended else repeated
        seconds = replace(before.seconds, steps=before.seconds.steps + untold)
        sessions[-1] = replace(before, seconds=seconds, repeated=repeated)
    _write(run_dir, [*sessions, Session(first, processor_name(), processes, devices)])


def record_seconds(run_dir: Path, seconds: Seconds, has_ended: bool) -> None:
    """Write down where the time of the newest session went so far."""
    sessions = _all_sessions(run_dir)
    if not sessions:
        return  # the directory is gone; what ended the session says so
    *before, session = sessions
    _write(run_dir, [*before, replace(session, seconds=seconds, has_ended=has_ended)])


def read_sessions(run_dir: Path, step: int | None = None) -> list[Session]:
    """Return the sessions of a run, from the first: none if none was written down.

    Args:
        run_dir: the run.
        step: give those that led to this step; what one did may have been repeated by a later one,
            so that nothing of it is left.

    Raises:
        InputError: the file cannot be read as what this version writes.
    """
    sessions = _all_sessions(run_dir)
    if step is None:
        return sessions
    begun = [each.steps_before for each in sessions]
    return [
        each
        for number, each in enumerate(sessions)
        if each.steps_before < min([step, *begun[number + 1 :]])
    ]


def time_of_sessions(sessions: Sequence[Session]) -> tuple[Seconds, float]:
    """Return where the time of sessions went, and how much of it in steps that were repeated."""
    names = [each.name for each in dataclasses.fields(Seconds)]
    sums = {name: math.fsum(getattr(each.seconds, name) for each in sessions) for name in names}
    return Seconds(**sums), math.fsum(each.repeated for each in sessions)


def seconds_since_start() -> float:
    """Return how long this process has been running; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    ticks = int(fields[19])  # of the boot clock, when it started: field 22 in all
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _all_sessions(run_dir: Path) -> list[Session]:
    path = run_dir / SESSIONS_FILE
    if not path.exists():
        return []
    kind = tuple[Session, ...]
    return list(typed(kind, read_json(path).get("sessions"), f"{path}: sessions"))


def _write(run_dir: Path, sessions: Sequence[Session]) -> None:
    found = [dataclasses.asdict(each) for each in sessions]
    write_json(run_dir / SESSIONS_FILE, {"sessions": found})
