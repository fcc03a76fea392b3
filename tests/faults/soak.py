"""Kill trainings for as long as there is time, and say what came of it.

`make soak SOAK_SECONDS=1800` kills runs of one process and of four in turn. What a kill must not do
is shown with the command's last words, and the run directory is kept.

Exit codes: 0 nothing was lost, 1 something was.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from kills import STAGES, Fault, Killer, check_same

MOST_KILLS = 12
"""Of one run, before it may end."""
CHEAPER = (
    "--model.n-layers",
    "1",
    "--training.sample-tokens",
    "0",
    "--training.validate-every",
    "0",
)
"""What a run of several processes is spared, whose every process compiles."""


def soak(killer: Killer, seconds: float, most: int, draw: random.Random) -> int:
    """Kill runs until time is over or there were so many kills; return how many faults."""
    print(f"{killer.processes} processes: an undisturbed run", flush=True)
    killer.undisturbed()  # by which the programs are compiled
    whole, begun, faults, runs = killer.undisturbed(), time.monotonic(), 0, 0
    print(f"  a session takes {whole.seconds:.1f} s and touches {whole.touches} files", flush=True)
    while time.monotonic() - begun < seconds and killer.restarts < most:
        runs += 1
        run_dir = killer.folder / f"run-{runs}"
        try:
            for _ in range(MOST_KILLS):
                enough = time.monotonic() - begun > seconds or killer.restarts >= most
                moment = killer.draw(whole, draw)
                if enough or killer.kill(run_dir, moment):
                    break
                print(f"  run {runs}, kill {killer.restarts}: {moment}", flush=True)
            killer.finish(run_dir)
            check_same(run_dir, whole)
        except Fault as fault:
            faults += 1
            print(f"FAULT in {run_dir}: {fault}", flush=True)
            continue
        shutil.rmtree(run_dir)
    stages = ", ".join(f"{name} {killer.stages[name]}" for name in STAGES)
    print(
        f"{killer.processes} processes: {killer.restarts} kills in {runs} runs ({stages}; by "
        f"{killer.kinds}), {faults} faults",
        flush=True,
    )
    return faults


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800, help="in all")
    parser.add_argument("--kills", type=int, default=10**6, help="most of each number of processes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="fugaku_jax-soak-"))
    print(f"seed {args.seed}, in {folder}", flush=True)
    faults = 0
    for processes in args.processes:
        killer = Killer(folder / str(processes), processes, CHEAPER if processes > 1 else ())
        draw = random.Random(f"{args.seed}/{processes}")
        faults += soak(killer, args.seconds / len(args.processes), args.kills, draw)
    if not faults:
        shutil.rmtree(folder)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
