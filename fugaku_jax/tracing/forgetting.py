"""What it takes to train a run on as if some documents were not there, and a run that does.

It begins at the newest checkpoint that has not seen them, or anew, and passes over the batches from
there on that hold them: they are listed in its ledger, as those of steps that went wrong are.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.data.passed_over import PassedOver
from fugaku_jax.errors import InputError
from fugaku_jax.run.checkpoint_folder import CHECKPOINTS, saved_steps
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.document_losses import DOCUMENT_LOSSES, drop_losses_after
from fugaku_jax.run.going_back import GoingBack, record_going_back
from fugaku_jax.run.identity import LEDGER_FILE, TOKENIZER_FILE, read_ledger
from fugaku_jax.run.metrics import METRICS_FILE, SAMPLES_FILE, drop_steps_after
from fugaku_jax.tracing.sightings import Sighting, traced_document
from fugaku_jax.tracing.traced_run import TracedRun

_MOST = 3
"""Times the steps of a run: batches passed over after which it is given up."""


@dataclass(frozen=True)
class Forgetting:
    """Which checkpoints know of some documents, and the way around them."""

    documents: tuple[str, ...]
    first_seen: int | None
    """Step that sees the first of them; None if the run never does."""
    free: tuple[int, ...]
    """Steps of the checkpoints, of those that are kept, that have seen none of them."""
    marked: tuple[int, ...]
    """Steps of those that have."""
    checkpoint: int
    """Step of the checkpoint to train on from; 0 to begin anew."""
    steps_again: int
    """Steps that the run has taken since, which are to be taken anew."""
    batches: tuple[int, ...]
    """Numbers of the batches, counted from 0, to be passed over from there on."""

    def __str__(self) -> str:
        seen = "never" if self.first_seen is None else f"first in step {self.first_seen}"
        free, marked = (", ".join(map(str, x)) or "none" for x in (self.free, self.marked))
        start = f"the checkpoint of step {self.checkpoint}" if self.checkpoint else "the beginning"
        lines = (
            f"{', '.join(self.documents)}: seen {seen}",
            f"checkpoints free of them: {free}; that have seen them: {marked}",
            f"to train on without them: from {start}; steps taken anew: {self.steps_again}, "
            f"batches passed over: {len(self.batches)}",
        )
        return "\n".join(lines)


def way_around(run: TracedRun, documents: Sequence[str]) -> Forgetting:
    """Tell what it takes to train a run on without some documents.

    What is passed over makes room for later batches, which may hold them too and are then passed
    over as well, up to the last step of the run.

    Raises:
        InputError: there is no such document, or hardly a batch is without them; or the run was
            imported, and no checkpoint is kept that has not seen them.
    """
    sightings = _sightings(run, documents)
    first = min((each.step for each in sightings), default=None)
    saved, end = saved_steps(run.run_dir), run.steps + 1
    free = tuple(step for step in saved if step < (first or end))
    if not free and "imported" in read_ledger(run.run_dir):
        raise InputError(
            f"{run.run_dir} was imported and keeps no checkpoint from before step {first}; "
            "import the weights again, into another directory."
        )
    checkpoint = max(free, default=0)
    going, left_out = run, set[int]()
    while sightings:
        batch = going.order.passed_over.batch
        left_out |= {batch(each.step - 1) for each in sightings}
        if len(left_out) > _MOST * run.steps:
            raise InputError(
                f"Hardly a batch of {run.run_dir} is without these documents: {run.steps} steps "
                f"would pass over {len(left_out)} and more; make a store without them."
            )
        going = run.passing([range(each, each + 1) for each in left_out])
        sightings = _sightings(going, documents)
    again = max(run.steps_taken() - checkpoint, 0)
    marked = tuple(step for step in saved if step not in free)
    return Forgetting(
        tuple(documents), first, free, marked, checkpoint, again, tuple(sorted(left_out))
    )


def begin_without(run: TracedRun, way: Forgetting, new: Path) -> None:
    """Make a run directory that goes the way around some documents; training it does the rest.

    It has the checkpoint, the figures up to it, and the ledger. It is there whole or not at all.

    Args:
        run: what is gone on from; nothing of it changes.
        way: as of `way_around`.
        new: the new directory.

    Raises:
        InputError: it is there already, or cannot be written.
    """
    if new.exists() or new.is_symlink():
        raise InputError(f"--run-dir {new} is there already; give a directory that is not.")
    partial = new.with_name(f".{new.name}.{os.getpid()}.partial")
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        _copy(run.run_dir, way.checkpoint, bool(way.free), partial)
        record_going_back(partial, *_goings_back(way, run.steps_taken()))
        partial.rename(new)
    except OSError as error:
        raise InputError(f"--run-dir {new} cannot be made: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(run_dir: Path, checkpoint: int, has_checkpoint: bool, new: Path) -> None:
    names = [CONFIG_FILE, LEDGER_FILE, TOKENIZER_FILE]
    if has_checkpoint:
        names += [METRICS_FILE, SAMPLES_FILE, DOCUMENT_LOSSES, f"{CHECKPOINTS}/{checkpoint}"]
    for name in names:
        old = run_dir / name
        if old.is_dir():
            shutil.copytree(old, new / name)
        elif old.exists():
            shutil.copy2(old, new / name)
    for name in (METRICS_FILE, SAMPLES_FILE):
        if (new / name).exists():
            drop_steps_after(new / name, checkpoint)
    drop_losses_after(new, checkpoint)


def _goings_back(way: Forgetting, last_step: int) -> list[GoingBack]:
    why = f"to go without {', '.join(way.documents)}"
    return [
        GoingBack(way.checkpoint, last_step, each.start, each.stop - 1, why, way.documents)
        for each in PassedOver(range(batch, batch + 1) for batch in way.batches).ranges
    ]


def _sightings(run: TracedRun, documents: Sequence[str]) -> list[Sighting]:
    found = (each for document in documents for each in traced_document(run, document))
    return [sighting for each in found for sighting in each.seen]
