"""Phases as job arrays of a batch system: handed in, and waited for until they end."""

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fugaku_jax.corpora.plan import CorpusPlan
from fugaku_jax.errors import InputError
from fugaku_jax.run.whole_file import replace_file

_SHORTEST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds between two looks
_SCRIPT = """#!/bin/bash
cd {folder} || exit
first=$((PJM_BULKNUM * {workers}))
for ((rank = first; rank < first + {workers} && rank < {tasks}; rank++)); do
  {command} --phase {phase} --rank "$rank" &
done
wait
"""

Progress = Callable[[str, int, int], None]
"""Told the phase, how many of its tasks are done, and how many there are."""


def wait_for(plan: CorpusPlan, phase: str, ended: Callable[[], bool], progress: Progress) -> None:
    """Wait until the tasks of a phase are done, or the job that should do them has ended."""
    total, wait = plan.phases[phase], _SHORTEST_WAIT
    while missing := plan.missing(phase):
        progress(phase, total - len(missing), total)
        was_there = not ended()
        time.sleep(wait)  # and once more behind its end, as a file may be seen later
        if not was_there:
            return
        wait = min(1.5 * wait, _LONGEST_WAIT)


def has_left_slurm(job: str) -> bool:
    """Tell whether a job is no longer in Slurm's queue; not if that cannot be asked."""
    return _is_absent(["squeue", "--me", "--noheader", "--format=%F"], job)


def run_by_pjm(
    plan: CorpusPlan,
    phase: str,
    workers: int,
    options: Mapping[str, Any],
    command: Sequence[str],
    progress: Progress,
) -> None:
    """Run a phase as a bulk job of PJM, of which each sub-job does some tasks, and wait for it.

    Args:
        plan: what is prepared; its folders must be seen by all nodes.
        phase: which phase.
        workers: tasks of a sub-job, which run at once on its node.
        options: of one letter as pjsub has them (`g`: the group), others resources of its `-L`.
        command: the program that does a task when told `--phase` and `--rank`.
        progress: is told of tasks that are done.

    Raises:
        InputError: pjsub is not there, or refuses the job.
    """
    tasks, script = plan.phases[phase], plan.work("logs", f"{phase}.sh")
    script.parent.mkdir(parents=True, exist_ok=True)
    text = _SCRIPT.format(
        folder=shlex.quote(str(Path.cwd())),
        workers=workers,
        tasks=tasks,
        command=shlex.join(command),
        phase=phase,
    )
    replace_file(script, lambda file: file.write(text.encode()))
    submit = ["pjsub", "--bulk", "--sparam", f"0-{(tasks - 1) // workers}", "-j"]
    for name, value in ({"node": 1} | dict(options)).items():
        submit += [f"-{name}", str(value)] if len(name) == 1 else ["-L", f"{name}={value}"]
    submit.append(script.name)
    try:  # where the script is, what the sub-jobs say is left by PJM
        done = subprocess.run(
            submit, cwd=script.parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise InputError("--engine pjm: there is no program `pjsub` here.") from error
    job = re.search(r"Job (\d+) submitted", done.stdout)
    if done.returncode or job is None:
        said = " ".join((done.stdout + done.stderr).split())
        raise InputError(f"--engine pjm: `{shlex.join(submit)}` says: {said}")
    ask = ["pjstat", "-v", "--choose", "jid,st", "--filter", f"jid={job[1]}"]
    wait_for(plan, phase, lambda: _is_absent(ask, job[1]), progress)


def _is_absent(ask: Sequence[str], job: str) -> bool:
    try:
        asked = subprocess.run(ask, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return asked.returncode == 0 and job not in asked.stdout.split()
