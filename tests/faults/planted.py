"""Faults planted in a run one at a time: what is seen of each, and how many steps are lost.

Each runs a session into a fault, and then as many as it takes until the run is done, whose losses
must be those of a run that nothing befell. `table.py` makes `docs/faults.md` of what they saw.
"""

import contextlib
import io
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from poison import poisoned

from fugaku_jax.config import Config
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.run.going_back import goings_back, record_going_back
from fugaku_jax.run.identity import claim_run_dir, run_identity
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.run.sessions import read_sessions
from fugaku_jax.training import loop
from fugaku_jax.training.hooks.hook import Hook

sys.path.insert(0, str(Path(__file__).parents[2] / "launch"))
from command import run_program

STALL_SECONDS = 3.0
"""How long a read stalls; of a longer one nothing else is seen. From one second on it is."""
STALLED_READ = 7
"""Which one: behind those that are read ahead while the step is compiled."""
KILLED_AT = 7
"""The step after which a run of eight steps was killed, with checkpoints of steps 3 and 6."""
SICK_BATCHES = (3, 4)
"""Which are read by the two steps after the first checkpoint: as many skipped as go back."""


@dataclass(frozen=True)
class Seen:
    """What a fault led to."""

    said: str
    """By the program; `RUN` is the run directory."""
    code: int
    """Exit code of the session that met the fault."""
    lost: int | None
    """Steps that had to be taken again; None if nothing is left of the run."""


TOLD = re.compile(
    r"(\[rank \d\] )?(error|warning|waited|stopped|interrupted|Loss or gradient)|step .* skipped"
)
"""Lines that a session prints of a fault."""


class Each(Hook):
    """Calls a function with each step that is done."""

    def __init__(self, function: Callable) -> None:
        self.after_step = function


class Bench:
    """Where faults are planted. All sessions take the step that the first has compiled.

    Args:
        config: a run of eight steps that is saved every three.
        folder: for its runs; that which nothing befell is made if it is not there.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.run = folder / "run"
        self.whole, self._killed = folder / "whole", folder / "killed"
        self._step: Any = None
        if not self.whole.exists():
            assert self.session(self.whole)[0] == loop.DONE

    def session(self, run_dir: Path, function: Callable | None = None) -> tuple[int, str]:
        """Train as `launch/train.py` does; return its exit code and what it said of a fault.

        Args:
            function: called with each step that is done.
        """
        said = io.StringIO()
        hooks = [Each(function)] if function else []
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stderr(said))
            stack.enter_context(contextlib.redirect_stdout(said))
            stack.enter_context(mock.patch.object(loop._Run, "_take_step", self._compiled()))
            stack.enter_context(mock.patch.object(loop, "_draw_report"))  # a second's work
            try:
                run_program(lambda: loop.train(self.config, run_dir, hooks=hooks))
            except SystemExit as end:
                code = int(end.code or 0)
        lines = said.getvalue().replace(str(run_dir), "RUN").splitlines()
        told = [line for line in lines if TOLD.match(line)]
        return code, plain(" ".join(told))

    def poisoned_session(self, run_dir: Path, rows: np.ndarray) -> tuple[int, str]:
        """Train where the gradient of some rows, `[N, T+1]`, is NaN."""
        before, self._step = self._step, None
        with poisoned(rows):
            ended = self.session(run_dir)
        self._step = before
        return ended

    def rows(self, batch: int) -> np.ndarray:
        """Return the rows of a batch, `[B, T+1]`."""
        store = Store.open(self.config.data.store)
        length, training = self.config.model.sequence_length, self.config.training
        order = SampleOrder.of_store(store, length, training.batch_size, self.config.data.seed)
        sets, starts, _ = order.locate_batch(batch)
        assert set(sets.tolist()) == {0}
        return store.read(0, "train", starts, length + 1)

    def _compiled(self) -> property:
        compiling = loop._Run._take_step.func

        def step(run: Any) -> Any:
            self._step = self._step or compiling(run)
            return self._step

        return property(step)

    def killed(self) -> Path:
        """Return a fresh copy of a run that was killed after step 7."""
        if not self._killed.exists():

            def die(done) -> None:
                if done.number == KILLED_AT + 1:  # the figures of the step before are written
                    raise KeyboardInterrupt

            self.session(self._killed, die)
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self._killed, self.run)
        return self.run

    def seen(self, code: int, said: str, taken: int | None = None) -> Seen:
        """Let the run go on to its end, unless it is done, and hold it to the whole one.

        Args:
            code: of the session that met the fault.
            said: by it.
            taken: steps that had been taken; those whose figures are there if not given.
        """
        if taken is None:
            taken = 0 if code == loop.DONE else len(read_metrics(self.run))
        if code != loop.DONE:
            assert self.session(self.run)[0] == loop.DONE
        first = read_sessions(self.run, self.config.training.steps)[-1].steps_before
        assert losses(self.run) == losses(self.whole)
        return Seen(said, code, taken - first)


Fault = Callable[[Bench], Seen]


def plain(said: str) -> str:
    """Leave out of what was said what is of this moment."""
    said = re.sub(r"step (\d+)/\d+  loss.*? step skipped · \S+( s)? left", r"step \1 skipped", said)
    return re.sub(r"\d+\.\d s", "N s", said)


def losses(run_dir: Path) -> list[float]:
    """Return the losses of a run."""
    return [line["loss"] for line in read_metrics(run_dir)]


def after_damage(damage: Callable[[Path], object]) -> Fault:
    """Return the fault of a newest checkpoint whose largest file is damaged so."""

    def fault(bench: Bench) -> Seen:
        folder = bench.killed() / "checkpoints" / "6"
        files = [path for path in folder.rglob("*") if path.is_file()]
        damage(max(files, key=lambda path: path.stat().st_size))
        code, said = bench.session(bench.run)
        # What Orbax says of damage is its own matter.
        said = re.sub("damaged: .*; it is now", "damaged: …; it is now", said)
        return bench.seen(code, said, taken=6)

    return fault


def flip(path: Path) -> None:
    """Turn one bit over in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << random.Random(0).randrange(8)
    path.write_bytes(data)


def at_step(number: int, happen: Callable[[], object]) -> Callable:
    """Return what makes something happen once a step is done."""
    return lambda done: happen() if done.number == number else None


def full_at_metrics(bench: Bench) -> Seen:
    """No room for a line of figures."""
    shutil.rmtree(bench.run, ignore_errors=True)
    full = io.FileIO("/dev/full", "w")

    def append(*_: object) -> None:
        full.write(b" ")

    filled = mock.patch("fugaku_jax.run.metrics._append", append)
    code, said = bench.session(bench.run, at_step(5, filled.start))
    filled.stop()
    return bench.seen(code, said)


def stalled_read(bench: Bench) -> Seen:
    """The store answers only after a while."""
    shutil.rmtree(bench.run, ignore_errors=True)
    read, reads = Store.read, []

    def stall(*arguments, **options):
        reads.append(arguments)
        if len(reads) == STALLED_READ:
            time.sleep(STALL_SECONDS)
        return read(*arguments, **options)

    with mock.patch.object(Store, "read", stall):
        code, said = bench.session(bench.run)
    return bench.seen(code, said)


def directory_removed(bench: Bench) -> Seen:
    """The run directory is removed under it."""
    bench.killed()
    code, said = bench.session(bench.run, at_step(7, lambda: shutil.rmtree(bench.run)))
    assert not bench.run.exists()
    return Seen(said, code, None)


@contextlib.contextmanager
def jumping_clock() -> Iterator[None]:
    """Have the time of day jump by a day forth and two back, at every call."""
    now, calls = time.time, [0]

    def jump() -> float:
        calls[0] += 1
        return now() + (86_400, -86_400)[calls[0] % 2]

    with mock.patch.object(time, "time", jump):
        yield


def clock_jumps(bench: Bench) -> Seen:
    """The time of day jumps."""
    shutil.rmtree(bench.run, ignore_errors=True)
    with jumping_clock():
        code, said = bench.session(bench.run)
    return bench.seen(code, said)


def asked_to_stop(bench: Bench) -> Seen:
    """SIGTERM, as a launcher, a batch system or its own warden sends."""
    shutil.rmtree(bench.run, ignore_errors=True)
    code, said = bench.session(bench.run, at_step(4, lambda: signal.raise_signal(signal.SIGTERM)))
    return bench.seen(code, said)


def poisoned_document(bench: Bench) -> Seen:
    """A document with a gradient of NaN, which two steps read, one after the other."""
    shutil.rmtree(bench.run, ignore_errors=True)
    rows = np.stack([bench.rows(batch)[0] for batch in SICK_BATCHES])
    code, said = bench.poisoned_session(bench.run, rows)
    (gone,) = goings_back(bench.run)
    # The oracle: a run whose order never had these batches.
    clean, store = bench.folder / "clean", Store.open(bench.config.data.store)
    claim_run_dir(clean, bench.config, store, run_identity(bench.config, store))
    record_going_back(clean, gone)
    assert bench.session(clean)[0] == loop.DONE
    assert losses(bench.run) == losses(clean) != losses(bench.whole)
    return Seen(said, code, gone.last_step - gone.checkpoint)


FAULTS: dict[str, Fault] = {
    "SIGTERM, as a batch system or a launcher sends it": asked_to_stop,
    "a flipped bit in the newest checkpoint": after_damage(flip),
    "a file of the newest checkpoint cut short": after_damage(
        lambda path: path.write_bytes(path.read_bytes()[:1000])
    ),
    "a file of the newest checkpoint missing": after_damage(Path.unlink),
    "no room on the disk for a line of figures": full_at_metrics,
    "a read of the store that stalls": stalled_read,
    "the clock of the day jumps by a day, forth and back": clock_jumps,
    "the run directory removed": directory_removed,
    "a poisoned document: a gradient of NaN in one step after another": poisoned_document,
}
"""What is planted in one process."""
