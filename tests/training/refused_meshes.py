"""Ask `launch/train.py` for runs on several numbers of emulated devices; save what it says.

Run by `test_across_meshes.py`, in one process for all: `python refused_meshes.py OUT.json
'[[ARGUMENT, ...], ...]'` saves each command's exit code and what it complained of.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from jax.extend import backend

sys.path.insert(0, str(Path(__file__).parents[2] / "launch"))
import train
from command import run_program


def ask(arguments: list[str]) -> tuple[int | str | None, str]:
    """Run one command as if it were the first that asks this process for devices."""
    sys.argv = ["train.py", *arguments]
    code, said = None, io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            run_program(train.main)
        except SystemExit as stop:
            code = stop.code
    backend.clear_backends()
    return code, said.getvalue()


def main() -> None:
    """Ask for every run, and save the answers."""
    out, commands = sys.argv[1:]
    answers = [ask(arguments) for arguments in json.loads(commands)]
    Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
