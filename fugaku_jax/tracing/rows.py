"""What the rows of a run's batches hold: documents, and which part of each, as text.

A row has the columns 0 to T, T being the sequence length: a step predicts each from those before.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fugaku_jax.errors import InputError
from fugaku_jax.tracing.traced_run import TracedRun

_SHOWN = 60
"""Most characters of a text that a line shows."""


def stated(licence: str | None) -> str:
    """Say under which licence a document is."""
    return f"licence {licence}" if licence else "licence not stated"


@dataclass(frozen=True)
class Span:
    """A part of a document in a row. Its last column may be the token that ends a document."""

    document: str
    source: str
    licence: str | None
    decisions: str | None
    """What filters decided of it, if they said."""
    first_column: int
    last_column: int
    first_character: int
    """Of the document's text, counted from 0; a character lies where its last byte does."""
    characters: int
    text: str

    def __str__(self) -> str:
        text = self.text if self.characters <= _SHOWN else f"{self.text[:_SHOWN]}…"
        columns = f"columns {self.first_column}-{self.last_column}"
        return f"{columns}: {self.document}, {self.source}, {stated(self.licence)}: {text!r}"


@dataclass(frozen=True)
class TracedRow:
    """A row of a batch."""

    row: int
    set: str
    spans: tuple[Span, ...]

    def __str__(self) -> str:
        return "\n  ".join([f"row {self.row}, set {self.set}", *map(str, self.spans)])


def traced_batch(
    run: TracedRun, batch: int, row: int | None = None, column: int | None = None
) -> Iterator[TracedRow]:
    """Yield what the rows of a batch hold.

    Args:
        run: whose batch.
        batch: its number in the order, counted from 0, be it passed over or not.
        row: only this one.
        column: only the span that holds this column.

    Raises:
        InputError: there is no such row or column.
    """
    order = run.order
    for name, asked, size in (
        ("row", row, order.batch_size),
        ("column", column, order.sequence_length + 1),
    ):
        if asked is not None and not 0 <= asked < size:
            raise InputError(
                f"--{name} {asked}: a batch of this run has the {name}s 0 to {size - 1}."
            )
    sets, starts, _ = (each.tolist() for each in order.locate_batch(batch))
    for number in range(order.batch_size) if row is None else (row,):
        spans = _spans(run, sets[number], starts[number])
        if column is not None:
            spans = (each for each in spans if each.first_column <= column <= each.last_column)
        yield TracedRow(number, run.store.sets[sets[number]].name, tuple(spans))


def traced_step(
    run: TracedRun, step: int, row: int | None = None, column: int | None = None
) -> Iterator[TracedRow]:
    """Yield what the rows of a step hold, whether it has been taken or will be.

    Args:
        run: whose step.
        step: counted from 1, as metrics count.
        row: as `traced_batch`.
        column: as `traced_batch`.

    Raises:
        InputError: the run has no such step, row or column.
    """
    run.check_step(step)
    return traced_batch(run, run.order.passed_over.batch(step - 1), row, column)


def _spans(run: TracedRun, set_index: int, start: int) -> Iterator[Span]:
    """Yield the documents of the sample that starts at a token of a set."""
    last = start + run.order.sequence_length
    for each in run.documents_in(set_index, start, last):
        begins, length = each["start"], each["length"]
        one, end = max(start, begins), min(last, begins + length - 1)
        text, ends = run.text(set_index, begins, length)
        before = int(ends[one - begins - 1]) if one > begins else 0
        part = text[before : int(ends[end - begins])].decode()
        yield Span(
            each["id"],
            each["source"],
            each["licence"],
            each["decisions"],
            one - start,
            end - start,
            len(text[:before].decode()),
            len(part),
            part,
        )
