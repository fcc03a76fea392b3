"""What a run went past, since steps that read it went wrong: the batches, with their documents."""

from collections.abc import Iterator
from dataclasses import dataclass

from fugaku_jax.run.going_back import goings_back
from fugaku_jax.tracing.rows import TracedRow, traced_batch
from fugaku_jax.tracing.traced_run import TracedRun


@dataclass(frozen=True)
class PassedBatch:
    """A batch that no step reads any more."""

    batch: int
    """Its number in the order, counted from 0."""
    after_step: int
    """The last step that had been taken by then."""
    checkpoint: int
    """Step of the checkpoint that the run went back to."""
    why: str
    rows: tuple[TracedRow, ...]

    def __str__(self) -> str:
        back = f"after step {self.after_step}, back to that of step {self.checkpoint}"
        return "\n".join([f"batch {self.batch}, {back}: {self.why}", *map(str, self.rows)])


def passed_batches(run: TracedRun) -> Iterator[PassedBatch]:
    """Yield the batches that a run went past, from the first time."""
    for each in goings_back(run.run_dir):
        for batch in each.batches:
            rows = tuple(traced_batch(run, batch))
            yield PassedBatch(batch, each.last_step, each.checkpoint, each.why, rows)
