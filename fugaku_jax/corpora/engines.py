"""What runs the tasks of a phase: processes of this machine, an executor of datatrove's, or PJM.

A task does nothing if its mark is there, so an engine may run one twice, and a phase that was
interrupted goes on with the tasks that are missing.
"""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Literal

from fugaku_jax.corpora.batch_jobs import Progress, has_left_slurm, run_by_pjm, wait_for
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
Engine = Literal["local", "datatrove", "slurm", "ray", "pjm"]
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


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
                (run_task(plan, phase, each) for each in plan.missing(phase)),
                progress,
            )
        return
    # Not forked: threads of this program may hold locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _end_with_parent, (os.getpid(),)) as pool:
        for phase in PHASES:
            futures = [pool.submit(run_task, plan, phase, each) for each in plan.missing(phase)]
            try:
                _watch(plan, phase, (each.result() for each in as_completed(futures)), progress)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                failed = (each.exception() for each in futures if not each.cancelled())
                raise next(filter(None, failed)) from None


def run_on_cluster(
    plan: CorpusPlan,
    engine: Engine,
    workers: int,
    options: Mapping[str, Any],
    command: Sequence[str],
    progress: Progress,
) -> None:
    """Run all phases by an executor of datatrove's (local, Slurm's or Ray's), or by PJM.

    Args:
        plan: what is prepared; its folders must be seen by all machines.
        engine: which.
        workers: tasks at once; of PJM on a node.
        options: further arguments of the executor: `partition` and `time` of Slurm's, for instance.
        command: for PJM, the program that does a task when told `--phase` and `--rank`.
        progress: is told of tasks that are done.

    Raises:
        InputError: tasks of a phase are missing when it has ended, or it cannot be begun.
    """
    for phase in PHASES:
        if not plan.missing(phase):
            continue
        if engine == "pjm":
            run_by_pjm(plan, phase, workers, options, command, progress)
        else:
            _run_by_datatrove(plan, engine, phase, workers, options, progress)
        if missing := plan.missing(phase):
            logs = plan.work("logs")
            raise InputError(f"phase {phase}: tasks {missing[:5]} have failed; {logs} says why.")
        progress(phase, plan.phases[phase], plan.phases[phase])


def _run_by_datatrove(
    plan: CorpusPlan,
    engine: Engine,
    phase: str,
    workers: int,
    options: Mapping[str, Any],
    progress: Progress,
) -> None:
    name = "local" if engine == "datatrove" else engine
    kind = getattr(extra(f"datatrove.executor.{name}"), f"{name.capitalize()}PipelineExecutor")
    fixed = {"pipeline": [_Step(plan, phase)], "tasks": plan.phases[phase], "workers": workers}
    fixed |= {"logging_dir": str(plan.work("logs", phase)), "skip_completed": False}
    fixed |= {"job_name": f"corpus-{phase}"} if engine == "slurm" else {}
    try:
        executor = kind(**fixed | dict(options))
    except TypeError as error:
        raise InputError(f"--engine-option: {engine}'s executor says: {error}.") from error
    try:
        executor.run()
    except FileNotFoundError as error:
        if error.filename != "sbatch":
            raise
        raise InputError("--engine slurm: there is no program `sbatch` here.") from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"--engine slurm: {error.cmd[0]} refuses the job, as it says.") from error
    if engine == "slurm":  # which has only handed the job in
        wait_for(plan, phase, lambda: has_left_slurm(str(executor.job_id)), progress)


class _Step:
    """A phase as a step of datatrove's pipelines: its rank is the task."""

    def __init__(self, plan: CorpusPlan, phase: str) -> None:
        self.plan, self.phase = plan, phase

    def __call__(self, _: Iterable[Any] | None, rank: int, __: int) -> None:
        run_task(self.plan, self.phase, rank)


def _watch(plan: CorpusPlan, phase: str, finished: Iterable[int], progress: Progress) -> None:
    total = plan.phases[phase]
    done = total - len(plan.missing(phase))
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
