"""Ask a run what it learned from, and when. See `docs/tracing.md`.

python launch/trace.py runs/tiny step 12 --row 0
python launch/trace.py runs/tiny document wiki/42 --json
python launch/trace.py runs/tiny text "吾輩は猫である。名前はまだ無い。"
python launch/trace.py runs/tiny loss --worst 20
python launch/trace.py runs/tiny influence --prompt "吾輩は猫である。" --candidates 50
python launch/trace.py runs/tiny forget wiki/42 --run-dir runs/without
python launch/trace.py runs/tiny passed
"""

import sys
from pathlib import Path

from command import parse, run_program
from questions import Questions

from fugaku_jax.errors import InputError

QUESTIONS = ("step", "document", "text", "loss", "influence", "forget", "passed")


def main() -> None:
    """Answer the question that was asked."""
    run, *asked = sys.argv[1:] or ["--help"]
    if run in ("-h", "--help"):
        asked = [run]
    elif run.startswith("-") or run in QUESTIONS:
        raise InputError("The run directory comes first, as in `trace.py runs/tiny step 12`.")
    questions = {name: getattr(Questions(Path(run)), name) for name in QUESTIONS}
    parse(questions, asked, prog="launch/trace.py RUN", description=__doc__)


if __name__ == "__main__":
    run_program(main)
