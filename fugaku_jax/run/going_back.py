"""Where a run went back to a checkpoint and past the batches of steps that went wrong.

It stands in the run's ledger, since it decides what is read from then on: batch = f(step) stays a
function of the ledger, the seed and the step. What was passed over changes nothing for the steps up
to the checkpoint, so that one list holds for the whole history of a run.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.data.passed_over import PassedOver
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.json_types import typed
from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.run.identity import LEDGER_FILE, PASSED_OVER, read_ledger, write_ledger

MOST_TIMES = 2
"""How often a run goes back to one checkpoint before it gives up."""


class SickSteps(RunError):
    """Steps in a row that all went wrong.

    Args:
        first: the first of them, counted from 1.
        last: the last of them.
        why: what was wrong with them, as a clause.
        safe: what the run can go on from, as a clause.
    """

    def __init__(self, first: int, last: int, why: str, safe: str) -> None:
        self.first, self.last, self.why = first, last, why
        super().__init__(
            f"{why} in the {last - first + 1} steps {first} to {last}, each of which left the "
            f"weights as they were; {safe}. Try a lower optimizer.learning_rate or another "
            "training.precision in a new directory."
        )


@dataclass(frozen=True)
class GoingBack:
    """One time that a run went back."""

    checkpoint: int
    """Step of the checkpoint that it went back to."""
    last_step: int
    """The last step that it had taken by then."""
    first_batch: int
    """The first batch of its order that no step reads any more, counted from 0."""
    last_batch: int
    """The last of them."""
    why: str
    """What was wrong with the steps that had read them."""
    documents: tuple[str, ...] = ()
    """What they hold that another run had seen, which this one is to go without, if that is why."""

    def __post_init__(self) -> None:
        if not 0 <= self.first_batch <= self.last_batch:
            raise InputError(
                f"The ledger passes over the batches {self.first_batch} to {self.last_batch}, "
                "which is no range of them."
            )

    @property
    def batches(self) -> range:
        """The batches that no step reads any more."""
        return range(self.first_batch, self.last_batch + 1)


def goings_back(run_dir: Path) -> tuple[GoingBack, ...]:
    """Return how often a run went back, from the first time.

    Raises:
        InputError: the ledger does not say it as this version writes it.
    """
    found = read_ledger(run_dir).get(PASSED_OVER, [])
    return typed(tuple[GoingBack, ...], found, f"{run_dir / LEDGER_FILE}: {PASSED_OVER}")


def passed_over(run_dir: Path) -> PassedOver:
    """Return which batches no step of a run reads any more. Raises as `goings_back`."""
    return PassedOver(each.batches for each in goings_back(run_dir))


def where_to(run_dir: Path, sick: SickSteps) -> GoingBack:
    """Tell where a run goes back to, and past which batches.

    The first time it passes over those of the sick steps alone. If that does not help, what came
    before them may be the cause, so the second time it passes over all since the checkpoint.

    Raises:
        SickSteps: there is no checkpoint.
        RunError: it was at that checkpoint often enough.
    """
    checkpoint = next(reversed(saved_steps(run_dir)), None)
    if checkpoint is None:
        raise sick
    before = [x for x in goings_back(run_dir) if x.checkpoint == checkpoint and not x.documents]
    if len(before) >= MOST_TIMES:
        raise RunError(
            f"{sick} It went back to that checkpoint {len(before)} times and past what was read "
            "after it, which did not help."
        )
    first = checkpoint if before else max(sick.first - 1, checkpoint)
    batch = passed_over(run_dir).batch
    return GoingBack(checkpoint, sick.last, batch(first), batch(sick.last - 1), sick.why)


def record_going_back(run_dir: Path, *goings: GoingBack) -> None:
    """Write it into the run's ledger; the process that writes does."""
    ledger = read_ledger(run_dir)
    ledger.setdefault(PASSED_OVER, []).extend(map(dataclasses.asdict, goings))
    write_ledger(run_dir, ledger)
