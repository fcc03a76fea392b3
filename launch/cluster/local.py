"""Start several processes of a program on this machine, joined as on a cluster.

python launch/cluster/local.py -n 4 -- train.py tiny --training.steps 50

Each process gets its share of the cores. What rank 0 prints is the output; what the others print
is shown only of the one that failed. If one fails all are ended, and if this program is killed they
get SIGTERM. The exit code is that of the first rank that failed (128 + N if signal N killed it),
else 75 if they stopped and saved, else 0.
"""

import sys
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command import parse, run_program
from go_on import say_whether

from fugaku_jax.cluster.local import start_and_wait
from fugaku_jax.errors import InputError

LAUNCH = Path(__file__).resolve().parents[1]

Count = Annotated[int, tyro.conf.arg(aliases=["-n"])]
Directory = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def main() -> int:
    """Split the command line at `--`, and start what is behind it."""
    options, command = sys.argv[1:], []
    if "--" in options:
        split = options.index("--")
        options, command = options[:split], options[split + 1 :]

    def local(
        processes: Count,
        devices_per_process: int | None = None,
        logs: Directory = None,
        restarts: int = 0,
    ) -> int:
        """Start several processes of a program on this machine, joined as on a cluster.

        Args:
            processes: How many to start.
            devices_per_process: How many devices to emulate in each.
            logs: Keep what the ranks other than 0 print, in DIR/rank-1.txt and so on.
            restarts: Start train.py again when it was stopped but saved, or a fault ended it, until
                so many times in a row it has left no newer checkpoint.
        """
        if min(processes, devices_per_process or 1) < 1 or devices_per_process == 0:
            raise InputError("--processes and --devices-per-process must be 1 or more.")
        if not command:
            raise InputError("The program comes last, as in `local.py -n 4 -- train.py tiny`.")
        if restarts and (Path(command[0]).name != "train.py" or not command[1:]):
            raise InputError("--restarts is for train.py and a recipe, as in `train.py tiny`.")

        def goes_on(code: int) -> bool:
            return bool(restarts) and say_whether(command[1:], code, restarts)

        started = with_python(command)
        return start_and_wait(started, processes, devices_per_process, logs, goes_on)

    return parse(local, options, prog="local.py -n N [options] -- PROGRAM", description=__doc__)


def with_python(command: list[str]) -> list[str]:
    """Put this Python before a Python file; `train.py` is the one of `launch/`."""
    program = Path(command[0])
    if program.suffix != ".py":
        return command
    if not program.exists() and (LAUNCH / program).exists():
        program = LAUNCH / program
    return [sys.executable, str(program), *command[1:]]


if __name__ == "__main__":
    run_program(main)
