"""What `trace.py` can be asked of a run."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from answers import How, tell
from recipes import command_of
from suffix_index import index_of

from fugaku_jax.errors import InputError
from fugaku_jax.run.configuration import read_config
from fugaku_jax.tracing import answer_pages as pages
from fugaku_jax.tracing.forgetting import begin_without, way_around
from fugaku_jax.tracing.influence import (
    TextGradient,
    influences,
    seen_documents,
    some_seen_documents,
)
from fugaku_jax.tracing.losses import traced_losses
from fugaku_jax.tracing.matches import traced_text
from fugaku_jax.tracing.passed import passed_batches
from fugaku_jax.tracing.rows import traced_step
from fugaku_jax.tracing.sightings import traced_document
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.training.checkpoint import load_model

Asked = Annotated[How, tyro.conf.arg(name="")]
PLAIN = How()


@dataclasses.dataclass(frozen=True)
class Questions:
    """What can be asked of a run."""

    run_dir: Path

    def step(
        self,
        number: tyro.conf.Positional[int],
        row: int | None = None,
        column: int | None = None,
        how: Asked = PLAIN,
    ) -> None:
        """Print which documents a step reads, whether it has been taken or will be.

        Args:
            number: The step, counted from 1.
            row: Only this row of its batch.
            column: Only what lies in this column: that token was predicted from those before it.
            how: As every question.
        """
        run = TracedRun(self.run_dir, how.store)
        rows = list(traced_step(run, number, row, column))
        tell(how, {"step": number, "rows": rows}, lambda: pages.step_page(run, number, rows))

    def document(self, identity: tyro.conf.Positional[str], how: Asked = PLAIN) -> None:
        """Print every step and row in which the run sees a document, and the checkpoints around.

        Args:
            identity: The id of the document.
            how: As every question.
        """
        run = TracedRun(self.run_dir, how.store)
        found = traced_document(run, identity)
        tell(how, {"documents": found}, lambda: pages.document_page(run, found))

    def text(
        self,
        said: tyro.conf.Positional[str],
        index: Path | None = None,
        shortest: int = 6,
        how: Asked = PLAIN,
    ) -> None:
        """Print which parts of a text stand word for word in the training data, rarest first.

        Args:
            said: The text, for example what a model has generated.
            index: Folder of an index made by `data.py index`; one in your cache, made now if it is
                not there, if not given.
            shortest: Fewest tokens of a part.
            how: As every question.
        """
        run = TracedRun(self.run_dir, how.store)
        found = traced_text(run, index_of(run.store, index), said, shortest)
        tell(how, found, lambda: pages.text_page(run, found))

    def loss(self, worst: int = 10, shortest: int = 16, how: Asked = PLAIN) -> None:
        """Print the losses of documents when they were seen: the worst, and the most forgotten.

        Args:
            worst: How many documents of either kind.
            shortest: Fewest tokens of a document.
            how: As every question.
        """
        run = TracedRun(self.run_dir, how.store)
        found = traced_losses(run, worst, shortest)
        tell(how, found, lambda: pages.losses_page(run, found))

    def influence(
        self,
        prompt: str,
        candidates: tuple[str, ...] = (),
        index: Path | None = None,
        how: Asked = PLAIN,
    ) -> None:
        """Print the documents whose gradients point the way of a prompt's, nearest first.

        Args:
            prompt: The text.
            candidates: Ids of the documents to compare, or one number: so many at random of those
                seen so far. Those in which parts of the prompt stand if not given.
            index: As of `text`, for these.
            how: As every question.
        """
        run = TracedRun(self.run_dir, how.store)
        if len(candidates) == 1 and candidates[0].isdecimal():
            documents = some_seen_documents(run, int(candidates[0]))
        else:
            documents = seen_documents(run, candidates or self._holders(run, prompt, index))
        gradient = TextGradient(*load_model(self.run_dir), run.store.end_of_document)
        found = influences(run, gradient, prompt, documents)
        answer = {"prompt": prompt, "documents": found}
        tell(how, answer, lambda: pages.influence_page(run, prompt, found))

    def _holders(self, run: TracedRun, prompt: str, index: Path | None) -> list[str]:
        """Return the documents seen so far that hold a part of a prompt."""
        spans = traced_text(run, index_of(run.store, index), prompt).spans
        found = {each.document for span in spans for each in span.documents if each.steps}
        if not found:
            raise InputError(
                "No part of the prompt stands in what the run has seen; give ids of documents by "
                "--candidates, or a number, as in --candidates 50, for so many at random."
            )
        return sorted(found)

    def forget(
        self,
        documents: tyro.conf.Positional[tuple[str, ...]],
        run_dir: Path | None = None,
        how: Asked = PLAIN,
    ) -> None:
        """Print which checkpoints are free of documents, and how to train on without them.

        Args:
            documents: The ids of the documents.
            run_dir: Make a run there that does so when it is trained; it must not be there yet.
            how: As every question.
        """
        if not documents:
            raise InputError("Give the id of a document, as in `trace.py runs/tiny forget a`.")
        run = TracedRun(self.run_dir, how.store)
        way = way_around(run, documents)
        if run_dir:
            begin_without(run, way, run_dir)
        config = read_config(self.run_dir)
        data = dataclasses.replace(config.data, store=how.store or config.data.store)
        config = dataclasses.replace(config, data=data)
        command = command_of(config, run_dir or Path("NEW"))
        before = "" if run_dir else "make that run by `forget … --run-dir NEW`, then "
        said = f"{way}\n{before}train it by:\n{command}"
        answer = dataclasses.asdict(way) | {"command": command}
        tell(how, answer, lambda: pages.forgetting_page(run, way, said), said)

    def passed(self, how: Asked = PLAIN) -> None:
        """Print the batches that the run went past, since steps that read them went wrong.

        Args:
            how: As every question.
        """
        run = TracedRun(self.run_dir, how.store)
        batches = list(passed_batches(run))
        said = None if batches else "The run went past no batch."
        tell(how, {"batches": batches}, lambda: pages.passed_page(run, batches), said)
