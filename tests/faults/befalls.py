"""Run train.py with something that befalls one of its ranks.

`BEFALLS=FAULT:RANK:STEP POISON=ROWS python befalls.py train.py ARGUMENT…` has the fault come to the
rank once the step is done and a checkpoint is there: `stop` (SIGSTOP), `die` (SIGKILL) or
`launcher` (that one dies; the ranks wait until they hear of it). `flip` has a bit of the weights
flip in the memory of the rank before the session's first step, `nothing` does nothing. The gradient
of the rows in the file ROWS is NaN in any case (`poison.py`).
"""

import ctypes
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from poison import poisoned

from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.training import loop
from fugaku_jax.training.hooks.hook import CompletedStep, Hook
from fugaku_jax.training.state import TrainState


class Befalls(Hook):
    """Has the fault come."""

    def __init__(self, run_dir: Path, fault: str, rank: str, step: str) -> None:
        self._run_dir, self._fault, self._step = run_dir, fault, int(step)
        self._is_here = jax.process_index() == int(rank)

    def start(self, step: int, state: TrainState) -> None:  # noqa: ARG002
        """Flip a bit."""
        if self._fault == "flip" and self._is_here:
            array = state.parameters["norm"]["scale"].addressable_shards[0].data
            ctypes.c_uint32.from_address(array.unsafe_buffer_pointer()).value ^= 1 << 7

    def needs_state(self, step: int) -> bool:
        """Have no step in flight, so that it is known which the others complete."""
        return step == self._step

    def after_step(self, done: CompletedStep) -> None:
        """Send a signal, if it is time."""
        if done.number != self._step:
            return
        while not saved_steps(self._run_dir):
            time.sleep(0.01)
        asked = signal.getsignal(signal.SIGTERM)
        if self._is_here and self._fault == "launcher":
            os.kill(os.getppid(), signal.SIGKILL)
        elif self._is_here:
            os.kill(os.getpid(), {"stop": signal.SIGSTOP, "die": signal.SIGKILL}[self._fault])
        while self._fault == "launcher" and signal.getsignal(signal.SIGTERM) == asked:
            time.sleep(0.01)  # the first signal changes what the next one does


def main() -> None:
    """Run the program."""
    train = loop.train

    def befallen(config: Any, run_dir: Path, *arguments: Any, **options: Any) -> int:
        befalls = Befalls(run_dir, *os.environ["BEFALLS"].split(":"))
        return train(config, run_dir, *arguments, hooks=[befalls], **options)

    loop.train = befallen
    loop._draw_report = lambda *_, **__: None  # takes two seconds
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    with poisoned(np.load(os.environ["POISON"])):
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
