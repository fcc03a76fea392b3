"""What `trace.py` can be asked of a run."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro
from recipes import command_of
from suffix_index import index_of

from fugaku_jax.errors import InputError
from fugaku_jax.run.configuration import read_config
from fugaku_jax.tracing.forgetting import begin_without, way_around
from fugaku_jax.tracing.influence import (
    TextGradient,
    influences,
    seen_documents,
    some_seen_documents,
)
from fugaku_jax.tracing.losses import traced_losses
from fugaku_jax.tracing.matches import traced_text
from fugaku_jax.tracing.page import write_page
from fugaku_jax.tracing.passed import passed_batches
from fugaku_jax.tracing.rows import traced_step
from fugaku_jax.tracing.sightings import traced_document
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.training.checkpoint import load_model


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
        _answer({"step": number}, "rows", rows, how)

    def document(self, identity: tyro.conf.Positional[str], how: Asked = How()) -> None:
        """Print every step and row in which the run sees a document, and the checkpoints around.

        Args:
            identity: The id of the document.
            how: As every question.
        """
        found = traced_document(TracedRun(self.run_dir, how.store), identity)
        _answer({}, "documents", found, how)

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
        _tell(found, how)

    def loss(self, worst: int = 10, shortest: int = 16, how: Asked = How()) -> None:
        """Print the losses of documents when they were seen: the worst, and the most forgotten.

        Args:
            worst: How many documents of either kind.
            shortest: Fewest tokens of a document.
            how: As every question.
        """
        _tell(traced_losses(TracedRun(self.run_dir, how.store), worst, shortest), how)

    def influence(
        self,
        prompt: str,
        candidates: tuple[str, ...] = (),
        index: Path | None = None,
        how: Asked = How(),
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
        _answer({"prompt": prompt}, "documents", influences(run, gradient, prompt, documents), how)

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
        how: Asked = How(),
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
        if how.as_json:
            print(json.dumps(dataclasses.asdict(way) | {"command": command}, ensure_ascii=False))
        else:
            before = "" if run_dir else "make that run by `forget … --run-dir NEW`, then "
            print(f"{way}\n{before}train it by:\n{command}")

    def passed(self, how: Asked = How()) -> None:
        """Print the batches that the run went past, since steps that read them went wrong.

        Args:
            how: As every question.
        """
        batches = list(passed_batches(TracedRun(self.run_dir, how.store)))
        if not (batches or how.as_json):
            print("The run went past no batch.")
        _answer({}, "batches", batches, how)


def _tell(found: Any, how: How) -> None:
    """Print what was found, or as one JSON object."""
    print(json.dumps(dataclasses.asdict(found), ensure_ascii=False) if how.as_json else found)


def _answer(said: dict[str, Any], name: str, found: Iterable[Any], how: How) -> None:
    """Print what was found: each by itself, or all as one JSON object under a name."""
    if how.as_json:
        found = [dataclasses.asdict(each) for each in found]
        print(json.dumps(said | {name: found}, ensure_ascii=False))
    else:
        for each in found:
            print(each)
