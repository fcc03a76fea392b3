"""Programs in the place of Slurm's and PJM's: what is handed in is run on this machine, in turn.

A job is a folder `jobs/ID` until it has ended. Called by the name of the program it stands for.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("sbatch", "scontrol", "squeue", "srun", "pjsub", "pjstat")


def install(folder: Path) -> dict[str, str]:
    """Put the programs into a folder; give the environment in which they are found."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in NAMES:
        program = folder / "bin" / name
        program.write_text(f'#!/bin/bash\nexec {sys.executable} {__file__} {name} "$@"\n')
        program.chmod(0o755)
    # It would add up what datatrove itself counts, of which nothing is used.
    (folder / "bin" / "merge_stats").write_text("#!/bin/bash\n")
    (folder / "bin" / "merge_stats").chmod(0o755)
    own = f"{folder / 'bin'}:{Path(sys.executable).parent}"
    return {"PATH": f"{own}:{os.environ['PATH']}", "BATCH_FOLDER": str(folder)}


def main(name: str, arguments: list[str]) -> int:
    """Do what the program of that name would, and note that it was called."""
    folder = Path(os.environ["BATCH_FOLDER"])
    with (folder / "calls").open("a") as calls:
        calls.write(" ".join([name, *arguments]) + "\n")
    if name == "srun":
        return subprocess.call(arguments[arguments.index("launch_pickled_pipeline") :])
    if name == "scontrol":  # show hostnames
        print(arguments[-1])
        return 0
    if name == "squeue":
        print(*(job.name for job in (folder / "jobs").iterdir()), sep="\n")
        return 0
    if name == "pjstat":
        wanted = arguments[-1].partition("=")[2]
        there = (folder / "jobs" / wanted).exists()
        print("JOB_ID ST", *([f"{wanted} RUN"] if there else []), sep="\n")
        return 0
    if name in ("sbatch", "pjsub"):
        if "refused=1" in arguments:
            print(f"[ERR.] PJM 0057 {name} rscgrp=none is invalid.", file=sys.stderr)
            return 1
        return _hand_in(folder, name, arguments)
    _run(folder / "jobs" / arguments[0], name)
    return 0


def _hand_in(folder: Path, name: str, arguments: list[str]) -> int:
    """Keep a copy of the script, as they do, and run it apart."""
    job = folder / "jobs" / str(4711 + len(list(folder.glob("job-*.sh"))))
    script = Path(arguments[-1]).read_text()
    (folder / f"job-{job.name}.sh").write_text(script)
    if name == "sbatch":
        last = re.search(r"^#SBATCH --array=0-(\d+)", script, re.MULTILINE)
    else:
        last = re.fullmatch(r"0-(\d+)", arguments[arguments.index("--sparam") + 1])
    assert last
    waits_for = [each.rpartition(":")[2] for each in arguments if "--dependency=" in each]
    job.mkdir()
    (job / "what").write_text(f"{last[1]} {' '.join(waits_for)}")
    command = [sys.executable, __file__, f"run {name}", job.name]
    none = subprocess.DEVNULL
    subprocess.Popen(command, start_new_session=True, stdin=none, stdout=none, stderr=none)
    said = {"sbatch": "Submitted batch job {}", "pjsub": "[INFO] PJM 0000 pjsub Job {} submitted."}
    print(said[name].format(job.name))
    return 0


def _run(job: Path, name: str) -> None:
    folder = job.parent.parent
    last, *waits_for = (job / "what").read_text().split()
    while any((folder / "jobs" / each).exists() for each in waits_for):
        time.sleep(0.1)
    script = folder / f"job-{job.name}.sh"
    for number in range(int(last) + 1):
        if name == "run sbatch":
            own = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_JOB_ID": job.name}
            own |= {"SLURM_NODELIST": "localhost"}
        else:
            own = {"PJM_BULKNUM": str(number), "PJM_JOBID": job.name}
        with (folder / f"job-{job.name}.txt").open("a") as output:
            command = ["bash", "-c", "false"] if "BATCH_FAILS" in os.environ else ["bash", script]
            subprocess.call(command, env=os.environ | own, stdout=output, stderr=output)
    (job / "what").unlink()
    job.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
