"""Ask a run what it learned from, and when. See `docs/tracing.md`.

python launch/trace.py runs/tiny step 12 --row 0
python launch/trace.py runs/tiny document wiki/42 --json
python launch/trace.py runs/tiny text "吾輩は猫である。名前はまだ無い。"
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
from suffix_index import index_of

from fugaku_jax.errors import InputError
from fugaku_jax.tracing.matches import traced_text
from fugaku_jax.tracing.page import write_page
from fugaku_jax.tracing.passed import passed_batches
from fugaku_jax.tracing.rows import traced_step
from fugaku_jax.tracing.sightings import traced_document
from fugaku_jax.tracing.traced_run import TracedRun

QUESTIONS = ("step", "document", "text", "passed")


@dataclasses.dataclass(frozen=True)
class How:
    """What every question may be asked with."""

    store: str | None = None
    """Folder or URL of the run's store, if it is no longer where the run found it."""
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


Asked = Annotated[How, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Questions:
    """What can be asked of a run."""

    run_dir: Path

    def step(
        self,
        number: tyro.conf.Positional[int],
        row: int | None = None,
        column: int | None = None,
        how: Asked = How(),
    ) -> None:
        """Print which documents a step reads, whether it has been taken or will be.

        Args:
            number: The step, counted from 1.
            row: Only this row of its batch.
            column: Only what lies in this column: that token was predicted from those before it.
            how: As every question.
        """
        rows = traced_step(TracedRun(self.run_dir, how.store), number, row, column)
        answer({"step": number}, "rows", rows, how)

    def document(self, identity: tyro.conf.Positional[str], how: Asked = How()) -> None:
        """Print every step and row in which the run sees a document, and the checkpoints around.

        Args:
            identity: The id of the document.
            how: As every question.
        """
        found = traced_document(TracedRun(self.run_dir, how.store), identity)
        answer({}, "documents", found, how)

    def text(
        self,
        said: tyro.conf.Positional[str],
        index: Path | None = None,
        shortest: int = 6,
        html: Path | None = None,
        how: Asked = How(),
    ) -> None:
        """Print which parts of a text stand word for word in the training data, rarest first.

        Args:
            said: The text, for example what a model has generated.
            index: Folder of an index made by `data.py index`; one in your cache, made now if it is
                not there, if not given.
            shortest: Fewest tokens of a part.
            html: Write a page there that shows the text with its parts, documents and steps.
            how: As every question.
        """
        run = TracedRun(self.run_dir, how.store)
        found = traced_text(run, index_of(run.store, index), said, shortest)
        if html:
            write_page(html, found, run.steps_taken())
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False) if how.as_json else found)

    def passed(self, how: Asked = How()) -> None:
        """Print the batches that the run went past, since steps that read them went wrong.

        Args:
            how: As every question.
        """
        batches = list(passed_batches(TracedRun(self.run_dir, how.store)))
        if not (batches or how.as_json):
            print("The run went past no batch.")
        answer({}, "batches", batches, how)


def answer(said: dict[str, Any], name: str, found: Iterable[Any], how: How) -> None:
    """Print what was found: each by itself, or all as one JSON object under a name."""
    if how.as_json:
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
