"""What runs the tasks of a phase: processes of this machine, or an executor of datatrove's.

A task does nothing if its mark is there, so an engine may run one twice, and a phase that was
interrupted goes on with the tasks that are missing.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from fugaku_jax.corpora.clean import clean
from fugaku_jax.corpora.duplicates import compare, link
from fugaku_jax.corpora.extras import extra
from fugaku_jax.corpora.plan import CorpusPlan
from fugaku_jax.corpora.write import write
from fugaku_jax.errors import InputError

PHASES: Mapping[str, Callable[[CorpusPlan, int], None]] = {
    "clean": clean,
    "compare": compare,
    "link": link,
    "write": write,
}
DATATROVE = ("datatrove", "slurm", "ray")
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

Progress = Callable[[str, int, int], None]
"""Told the phase, how many of its tasks are done, and how many there are."""


def run_task(plan: CorpusPlan, phase: str, task: int) -> int:
    """Run a task of a phase unless it is done; give its number.

    Raises:
        InputError: there is no such task, or what its input demands.
    """
    tasks = plan.phases[phase]
    if not 0 <= task < tasks:
        raise InputError(f"rank {task}: phase {phase} has tasks 0 to {tasks - 1}.")
    if not plan.mark(phase, task).exists():
        plan.mark(phase, task).parent.mkdir(parents=True, exist_ok=True)
        for folder in ("documents", "decisions"):
            plan.output(folder).mkdir(exist_ok=True)
        PHASES[phase](plan, task)
    return task


def run_locally(plan: CorpusPlan, workers: int, progress: Progress) -> None:
    """Run all phases in processes of this machine; in this one if there is one worker.

    Raises:
        InputError: as the tasks do; the first in the recipe's order of those that ran.
    """
    if workers == 1:
        for phase in PHASES:
            _watch(
                plan,
                phase,
                (run_task(plan, phase, each) for each in _missing(plan, phase)),
                progress,
            )
        return
    # Not forked: threads of this program may hold locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _end_with_parent, (os.getpid(),)) as pool:
        for phase in PHASES:
            futures = [pool.submit(run_task, plan, phase, each) for each in _missing(plan, phase)]
            try:
                _watch(plan, phase, (each.result() for each in as_completed(futures)), progress)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                failed = (each.exception() for each in futures if not each.cancelled())
                raise next(filter(None, failed)) from None


def run_by_datatrove(
    plan: CorpusPlan, engine: str, workers: int, options: Mapping[str, Any], progress: Progress
) -> None:
    """Run all phases by an executor of datatrove's: `datatrove` (local), `slurm` or `ray`.

    Args:
        plan: what is prepared; its folders must be seen by all machines.
        engine: which executor.
        workers: tasks at once.
        options: further arguments of the executor: `partition` and `time` of Slurm's, for instance.
        progress: is told of phases.

    Raises:
        InputError: tasks of a phase are missing when it has ended.
    """
    for phase in PHASES:
        if not (missing := _missing(plan, phase)):
            continue
        logs = str(plan.work("logs", phase))
        fixed = {"pipeline": [_Step(plan, phase)], "tasks": plan.phases[phase], "workers": workers}
        fixed |= {"logging_dir": logs, "skip_completed": False}
        if engine == "slurm":
            executor = extra("datatrove.executor.slurm").SlurmPipelineExecutor(
                **fixed, **{"job_name": f"corpus-{phase}", **options}
            )
        elif engine == "ray":
            executor = extra("datatrove.executor.ray").RayPipelineExecutor(**fixed, **options)
        else:
            executor = extra("datatrove.executor.local").LocalPipelineExecutor(**fixed, **options)
        executor.run()
        while engine == "slurm" and _missing(plan, phase):  # which has only handed the job in
            progress(phase, plan.phases[phase] - len(_missing(plan, phase)), plan.phases[phase])
            time.sleep(10)
        if missing := _missing(plan, phase):
            raise InputError(f"phase {phase}: tasks {missing[:5]} have failed; {logs} says why.")
        progress(phase, plan.phases[phase], plan.phases[phase])


class _Step:
    """A phase as a step of datatrove's pipelines: its rank is the task."""

    def __init__(self, plan: CorpusPlan, phase: str) -> None:
        self.plan, self.phase = plan, phase

    def __call__(self, _: Iterable[Any] | None, rank: int, __: int) -> None:
        run_task(self.plan, self.phase, rank)


def _missing(plan: CorpusPlan, phase: str) -> list[int]:
    return [each for each in range(plan.phases[phase]) if not plan.mark(phase, each).exists()]


def _watch(plan: CorpusPlan, phase: str, finished: Iterable[int], progress: Progress) -> None:
    total = plan.phases[phase]
    done = total - len(_missing(plan, phase))
    progress(phase, done, total)
    for _ in finished:
        done += 1
        progress(phase, done, total)


def _end_with_parent(parent: int) -> None:
    """Let this worker end with the program that started it, which alone is interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
