"""When a run sees a document, and which of its checkpoints have learned from it."""

from dataclasses import dataclass

from fugaku_jax.data.store_format import SPLITS, SplitName
from fugaku_jax.errors import InputError
from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.tracing.rows import stated
from fugaku_jax.tracing.traced_run import TracedRun


@dataclass(frozen=True)
class Sighting:
    """A document in a batch: the columns `[first_column, last_column]` of a row are its tokens."""

    step: int
    """Counted from 1, as a run's metrics count it."""
    row: int
    first_column: int
    last_column: int

    def __str__(self) -> str:
        return f"step {self.step} row {self.row} columns {self.first_column}-{self.last_column}"


@dataclass(frozen=True)
class TracedDocument:
    """One that a store holds, and when a run sees it."""

    document: str
    set: str
    split: SplitName
    source: str
    licence: str | None
    sha256: str
    """Of its text in UTF-8, in hex."""
    decisions: str | None
    """What filters decided of it, if they said."""
    seen: tuple[Sighting, ...]
    """From the first time; nothing of what is held out."""
    checkpoint_before: int | None
    """Step of the last checkpoint, of those that are kept, that has not seen it."""
    checkpoint_after: int | None
    """Step of the first that has."""

    def __str__(self) -> str:
        side = ", held out" if self.split == "validation" else ""
        before, after = (
            "none" if step is None else f"step {step}"
            for step in (self.checkpoint_before, self.checkpoint_after)
        )
        lines = (
            f"set {self.set}{side}, {self.source}, {stated(self.licence)}, sha256 {self.sha256}",
            *([f"decisions {self.decisions}"] if self.decisions else []),
            *map(str, self.seen),
            f"seen in {len(self.seen)} rows",
            f"last checkpoint without it: {before}; first with it: {after}",
        )
        return "\n  ".join(lines)


def traced_document(run: TracedRun, document: str) -> list[TracedDocument]:
    """Return the documents of an id, one in each set that has it, and when the run sees them.

    Raises:
        InputError: no document has that id.
    """
    found = []
    for index, each in enumerate(run.store.sets):
        for split in SPLITS:
            for _, row in run.documents(index, split).find(document):
                seen = _sightings(run, index, row) if split == "train" else ()
                about = row["source"], row["licence"], row["sha256"], row["decisions"]
                found.append(
                    TracedDocument(document, each.name, split, *about, seen, *_around(run, seen))
                )
    if not found:
        raise InputError(f"document {document}: none in {run.store.url} has this id.")
    return found


def _sightings(run: TracedRun, set_index: int, row: dict) -> tuple[Sighting, ...]:
    start, stop, T = row["start"], row["start"] + row["length"], run.order.sequence_length
    return tuple(
        Sighting(step + 1, at, max(start - sample * T, 0), min(stop - 1 - sample * T, T))
        for step, at, sample in run.order.occurrences(set_index, start, stop, run.steps)
    )


def _around(run: TracedRun, seen: tuple[Sighting, ...]) -> tuple[int | None, int | None]:
    first = seen[0].step if seen else run.steps + 1
    saved = saved_steps(run.run_dir)
    before, after = [s for s in saved if s < first], [s for s in saved if s >= first]
    return max(before, default=None), min(after, default=None)
