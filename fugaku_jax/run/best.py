"""Which step of a run predicted held-out text best, and that the run ended there."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import typed
from fugaku_jax.run.checkpoint_folder import checkpoint_folder, named_steps
from fugaku_jax.run.metrics import METRICS_FILE, read_metrics
from fugaku_jax.run.whole_file import write_json

ENDED_FILE = "ended_early.json"


@dataclass(frozen=True)
class Best:
    """The best validation of a run so far."""

    step: int = 0
    loss: float = math.inf
    """Nats a token; infinite before the first."""
    worse: int = 0
    """Validations since then, none of which was better."""

    def after(self, step: int, loss: float) -> "Best":
        """Return the best once a step was validated too; a NaN is no better than anything."""
        if loss < self.loss:
            return Best(step, loss)
        return Best(self.step, self.loss, self.worse + 1)


def best_until(run_dir: Path, step: int) -> Best:
    """Return the best of the steps up to this one, from the run's figures.

    Raises:
        InputError: the figures cannot be read.
    """
    best = Best()
    for line in read_metrics(run_dir) if (run_dir / METRICS_FILE).exists() else []:
        if line["step"] <= step and "validation_loss" in line and not line.get("skipped"):
            best = best.after(int(line["step"]), line["validation_loss"])
    return best


def end_early(run_dir: Path, best: Best, patience: int) -> None:
    """Make the best checkpoint the newest, and note that the run has ended there.

    Args:
        run_dir: the run; nothing writes a checkpoint there now.
        best: its best step, which is saved.
        patience: validations that it waited for a better one.
    """
    write_json(run_dir / ENDED_FILE, {"step": best.step, "loss": best.loss, "patience": patience})
    _drop_after(run_dir, best.step)


def ended_at(run_dir: Path, patience: int) -> int | None:
    """Return the step at which a run has ended early; None if it may go on.

    It may, if it is now to wait longer.

    Raises:
        InputError: the note cannot be read.
    """
    path = run_dir / ENDED_FILE
    if not path.exists():
        return None
    note = read_json(path)
    step, waited = (typed(int, note.get(name), f"{path}: {name}") for name in ("step", "patience"))
    if patience == 0 or patience > waited:
        return None
    return step


def drop_what_was_worse(run_dir: Path) -> None:
    """Finish what `end_early` began, if the program was killed in between."""
    path = run_dir / ENDED_FILE
    if path.exists():
        _drop_after(run_dir, typed(int, read_json(path).get("step"), f"{path}: step"))


def _drop_after(run_dir: Path, step: int) -> None:
    for each in named_steps(run_dir):
        if each > step:
            shutil.rmtree(checkpoint_folder(run_dir, each))
