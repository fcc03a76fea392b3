"""Reading a checkpoint, so that all processes agree whether it is good."""

import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp
from jaxtyping import PyTree

from fugaku_jax.collectives.votes import anywhere
from fugaku_jax.errors import RunError
from fugaku_jax.run.checkpoint_folder import (
    CHECKPOINTS,
    FINISHED,
    LiteralPath,
    checkpoint_folder,
    is_finished,
    saved_steps,
)
from fugaku_jax.training.checksums import has_checksums

STATE = "state"
"""The item of a checkpoint that holds the arrays."""
MOST_LETTERS = 1000
"""Most of a library's own words in a sentence."""


class DamagedCheckpoint(RunError):
    """A checkpoint that cannot be read.

    Args:
        run_dir: the run.
        step: of the checkpoint.
        why: what is wrong with it.
    """

    def __init__(self, run_dir: Path, step: int, why: str) -> None:
        self.found = f"{run_dir / CHECKPOINTS / str(step)} is damaged: {why}"
        earlier = [each for each in saved_steps(run_dir) if each < step]
        advice = f"rename it to use that of step {earlier[-1]}" if earlier else "there is no other"
        super().__init__(f"{self.found}; {advice}.")


def load(
    run_dir: Path, step: int, target: PyTree[jax.ShapeDtypeStruct], *, partial: bool = False
) -> Any:
    """Load the arrays of a checkpoint.

    Args:
        run_dir: the run.
        step: of the checkpoint.
        target: shapes, types and shardings of its arrays.
        partial: whether the checkpoint holds other arrays too, which are left alone.

    Returns:
        the arrays, nested as `target`.

    Raises:
        DamagedCheckpoint: in all processes, if one of them could not read what it needs.
    """
    why, loaded = None, None
    try:
        loaded = _load_alone(run_dir, step, target, partial)
    except Exception as error:  # damage comes up as an error of any kind
        why = reason(error)
    if anywhere(why is not None):
        raise DamagedCheckpoint(run_dir, step, why or "another process could not read its part")
    return loaded


def is_of_another_optimizer(run_dir: Path, step: int, moments: PyTree) -> bool:
    """Tell, in all processes alike, whether a checkpoint holds what another optimizer remembers.

    Args:
        run_dir: the run.
        step: of the checkpoint.
        moments: shapes of what this one remembers.
    """
    folder = LiteralPath(checkpoint_folder(run_dir, step))
    try:
        found = ocp.checkpointables_metadata(folder).metadata[STATE]["moments"]
        differs = _names(found) != _names(moments)
    except Exception:  # it is damaged, then, which is another matter
        differs = False
    return anywhere(differs)


def warn_without_checksums(run_dir: Path, step: int) -> None:
    """Say if a checkpoint was saved before its arrays had checksums."""
    folder = checkpoint_folder(run_dir, step)
    if jax.process_index() == 0 and not has_checksums(folder / STATE):
        print(
            f"warning: {run_dir / CHECKPOINTS / str(step)} is from a version that wrote no "
            "checksums, so damage to it could not be seen.",
            file=sys.stderr,
        )


def reason(error: BaseException) -> str:
    """Return what a library's error came from, as a part of a sentence."""
    while error.__cause__:
        error = error.__cause__
    text = " ".join(str(error).split()).rstrip(".")
    if not isinstance(error, OSError | ValueError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def _names(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Return the shapes of arrays by their names."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in leaves}


def _load_alone(run_dir: Path, step: int, target: PyTree, partial: bool) -> Any:
    """Load this process's share; no process waits for another, which may have failed."""
    if not is_finished(run_dir, step):
        raise FileNotFoundError(f"it has no {FINISHED}")
    warn_without_checksums(run_dir, step)
    context, me = ocp.Context(), jax.process_index()
    context.pytree.loading.partial_load = partial
    context.file.path_class = LiteralPath
    context.array.saving.array_metadata_store = (
        None  # of keys of random numbers, which we have none
    )
    context.multiprocessing.primary_host = me
    context.multiprocessing.active_processes = {me}
    with context:
        folder = LiteralPath(checkpoint_folder(run_dir, step))
        return ocp.load_checkpointables(folder, {STATE: target})[STATE]
