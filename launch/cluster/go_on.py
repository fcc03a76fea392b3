"""Tell whether a run goes on after a session of it has ended; job scripts ask by this.

python launch/cluster/go_on.py EXIT_CODE small_ja [--training.steps 1000 …]

Behind the session's exit code stand the arguments of train.py. Exit code 0: start it again, for it
was stopped but saved, or a fault ended it. 1: it is done, its input is wrong, or three sessions in
a row have left no newer checkpoint; a sentence says which. 2: the arguments are wrong.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from command import run_program
from recipes import run_directory

from fugaku_jax.errors import InputError
from fugaku_jax.run.restarts import MOST_FRUITLESS, why_not_go_on


def main() -> int:
    """Read the arguments, and say it."""
    code, *command = sys.argv[1:] or [""]
    if not code.isdecimal() or not command:
        raise InputError("Give the exit code and train.py's arguments: `go_on.py 75 small_ja`.")
    return 0 if say_whether(command, int(code)) else 1


def say_whether(command: list[str], code: int, most_fruitless: int = MOST_FRUITLESS) -> bool:
    """Print and return whether a run goes on.

    Args:
        command: train.py's arguments.
        code: the exit code of the session that has ended.
        most_fruitless: sessions in a row that may leave no newer checkpoint.
    """
    why_not = why_not_go_on(run_directory(command), code, most_fruitless)
    print(f"exit code {code}: {why_not or 'the run goes on'}.", file=sys.stderr)
    return not why_not


if __name__ == "__main__":
    run_program(main)
