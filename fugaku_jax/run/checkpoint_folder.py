"""The folder `checkpoints/` of a run as it lies on disk: which steps are there, and what was lost.

A checkpoint is a folder named by its step that Orbax has finished. One that cannot be read is never
deleted: it is renamed to `STEP.damaged`, which nothing reads.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.run.metrics import METRICS_FILE, read_metrics

CHECKPOINTS = "checkpoints"
FINISHED = "_CHECKPOINT_METADATA"
"""What Orbax puts into a checkpoint that it has finished."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""How it ends the name of one that it has not."""


class LiteralPath(type(epath.Path())):  # pyrefly: ignore[invalid-inheritance]
    """A path whose own characters are no pattern: Orbax looks for files by `path.glob(pattern)`."""

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        """Yield what matches the pattern below this path, whatever this path is called."""
        for name in glob.glob(pattern, root_dir=os.fspath(self)):
            yield self / name


def checkpoint_folder(run_dir: Path, step: int | None = None) -> Path:
    """Return the folder of a run's checkpoints, or of one of them."""
    folder = (run_dir / CHECKPOINTS).resolve()
    return folder if step is None else folder / str(step)


def run_and_step(path: Path) -> tuple[Path, int | None]:
    """Return the run and the step that a path names: `RUN/checkpoints/STEP`, or `RUN` alone."""
    if path.parent.name == CHECKPOINTS and path.name.isascii() and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return path, None


def saved_steps(run_dir: Path) -> list[int]:
    """Return the steps of a run's checkpoints, in their order."""
    return [step for step in named_steps(run_dir) if is_finished(run_dir, step)]


def named_steps(run_dir: Path) -> list[int]:
    """Return the steps that folders are named by, in their order, whatever is in them."""
    folder = checkpoint_folder(run_dir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = (int(name) for name in names if name.isascii() and name.isdecimal())
    return sorted(step for step in steps if str(step) in names)


def is_finished(run_dir: Path, step: int) -> bool:
    """Tell whether the folder of a step is a checkpoint."""
    return (checkpoint_folder(run_dir, step) / FINISHED).is_file()


def what_is_safe(run_dir: Path) -> str:
    """Say which checkpoint on disk a run can go on from."""
    steps = saved_steps(run_dir)
    return f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no checkpoint yet"


def set_aside(run_dir: Path, step: int) -> Path:
    """Rename the folder of a step, so that nothing reads it any more; return what it is now."""
    folder = checkpoint_folder(run_dir, step)
    number, free = 1, folder.with_name(f"{step}.damaged")
    while free.exists():
        number += 1
        free = folder.with_name(f"{step}.damaged-{number}")
    return folder.rename(free)


def check_history(run_dir: Path, config: Config, ledger: dict[str, Any], has_start: bool) -> None:
    """Refuse to begin anew in a run that has lost its checkpoints: it would erase its history.

    Args:
        run_dir: the run.
        config: as it is about to go on.
        ledger: what the run has written down of where it came from.
        has_start: whether the weights that it started from are given again.

    Raises:
        InputError: figures of steps are there or weights were imported, and no checkpoint is.
    """
    if named_steps(run_dir):
        return
    steps = _last_figures(run_dir)
    if steps and not _died_before_the_first(run_dir, steps, config.checkpoint.every):
        raise InputError(
            f"{run_dir} has figures of {steps} steps but no checkpoint in "
            f"{run_dir / CHECKPOINTS}; put one back, or give another --run-dir to begin anew."
        )
    if "imported" in ledger and not has_start:
        raise InputError(
            f"{run_dir} started from imported weights, but {run_dir / CHECKPOINTS} no longer holds "
            "them; import them again, into another directory."
        )


def _died_before_the_first(run_dir: Path, steps: int, every: int) -> bool:
    """Tell whether a session may have ended before its first checkpoint was finished."""
    folder = checkpoint_folder(run_dir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["none"]
    unfinished = [name for name in names if name.endswith(UNFINISHED)]
    return len(unfinished) == len(names) and (bool(unfinished) or steps <= every)


def _last_figures(run_dir: Path) -> int:
    lines = read_metrics(run_dir) if (run_dir / METRICS_FILE).exists() else []
    return int(lines[-1]["step"]) if lines else 0
