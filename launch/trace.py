"""Ask a run what it learned from, and when. See `docs/tracing.md`.

python launch/trace.py runs/tiny step 12 --row 0
python launch/trace.py runs/tiny document wiki/42 --json
python launch/trace.py runs/tiny passed
"""

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro
from command import parse, run_program

from fugaku_jax.errors import InputError
from fugaku_jax.tracing.passed import passed_batches
from fugaku_jax.tracing.rows import traced_step
from fugaku_jax.tracing.sightings import traced_document
from fugaku_jax.tracing.traced_run import TracedRun

Json = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]
QUESTIONS = ("step", "document", "passed")


@dataclasses.dataclass(frozen=True)
class Questions:
    """What can be asked of a run."""

    run_dir: Path

    def step(
        self,
        number: tyro.conf.Positional[int],
        row: int | None = None,
        column: int | None = None,
        store: str | None = None,
        as_json: Json = False,
    ) -> None:
        """Print which documents a step reads, whether it has been taken or will be.

        Args:
            number: The step, counted from 1.
            row: Only this row of its batch.
            column: Only what lies in this column: that token was predicted from those before it.
            store: Folder or URL of the run's store, if it is no longer where the run found it.
            as_json: Print one JSON object.
        """
        rows = traced_step(TracedRun(self.run_dir, store), number, row, column)
        answer({"step": number}, "rows", rows, as_json)

    def document(
        self, identity: tyro.conf.Positional[str], store: str | None = None, as_json: Json = False
    ) -> None:
        """Print every step and row in which the run sees a document, and the checkpoints around.

        Args:
            identity: The id of the document.
            store: Folder or URL of the run's store, if it is no longer where the run found it.
            as_json: Print one JSON object.
        """
        found = traced_document(TracedRun(self.run_dir, store), identity)
        answer({}, "documents", found, as_json)

    def passed(self, store: str | None = None, as_json: Json = False) -> None:
        """Print the batches that the run went past, since steps that read them went wrong.

        Args:
            store: Folder or URL of the run's store, if it is no longer where the run found it.
            as_json: Print one JSON object.
        """
        batches = list(passed_batches(TracedRun(self.run_dir, store)))
        if not (batches or as_json):
            print("The run went past no batch.")
        answer({}, "batches", batches, as_json)


def answer(said: dict[str, Any], name: str, found: Iterable[Any], as_json: bool) -> None:
    """Print what was found: each by itself, or all as one JSON object under a name."""
    if as_json:
        found = [dataclasses.asdict(each) for each in found]
        print(json.dumps(said | {name: found}, ensure_ascii=False))
    else:
        for each in found:
            print(each)


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
