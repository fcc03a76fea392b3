"""Reading a checkpoint, so that all processes agree whether it is good."""

import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp
from jaxtyping import PyTree

from fugaku_jax.cluster.decisions import anywhere
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import shown
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
IDENTITY = "identity"
"""The item of a checkpoint that says what the numbers mean."""
FORMAT = 2
"""Number of the format that this version writes, and the newest that it reads: 1 had no number."""
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
        self.why = why
        self.found = f"{run_dir / CHECKPOINTS / str(step)} is damaged: {why}"
        earlier = [each for each in saved_steps(run_dir) if each < step]
        advice = f"rename it to use that of step {earlier[-1]}" if earlier else "there is no other"
        super().__init__(f"{self.found}; {advice}.")


def check_format(run_dir: Path, step: int) -> None:
    """Refuse a checkpoint of a later version, which may mean something else by the same names.

    Raises:
        InputError: it is one.
        DamagedCheckpoint: it does not say, or not in a way that any version has.
    """
    path = checkpoint_folder(run_dir, step) / IDENTITY / "data.json"
    try:
        number = read_json(path).get("format", 1)
    except InputError as error:
        raise DamagedCheckpoint(run_dir, step, str(error).rstrip(".")) from None
    if type(number) is not int or number < 1:
        raise DamagedCheckpoint(run_dir, step, f"its format is {shown(number)}")
    if number > FORMAT:
        raise InputError(
            f"{run_dir / CHECKPOINTS / str(step)} is of format {number}, and this version reads "
            f"those up to {FORMAT}; use the version of fugaku_jax that wrote it, or a later one."
        )


def load(run_dir: Path, step: int, target: PyTree[jax.ShapeDtypeStruct]) -> Any:
    """Load arrays of a checkpoint, by their names; what else it holds is left alone.

    Args:
        run_dir: the run.
        step: of the checkpoint.
        target: shapes, types and shardings of the arrays.

    Returns:
        the arrays, nested as `target`.

    Raises:
        DamagedCheckpoint: in all processes, if one of them could not read what it needs.
        InputError: it is of a later version.
    """
    why, loaded = None, None
    try:
        check_format(run_dir, step)
        loaded = _load_alone(run_dir, step, target)
    except InputError:
        raise
    except DamagedCheckpoint as error:
        why = error.why
    except Exception as error:  # damage comes up as an error of any kind
        why = reason(error)
    if anywhere(why is not None):
        raise DamagedCheckpoint(run_dir, step, why or "another process could not read its part")
    return loaded


def saved_names(run_dir: Path, step: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's arrays by their names, in all processes alike.

    Nothing if one of them cannot read them: the checkpoint is damaged then.
    """
    folder = LiteralPath(checkpoint_folder(run_dir, step))
    try:
        found = names(ocp.checkpointables_metadata(folder).metadata[STATE])
    except Exception:  # whatever a damaged file leads to
        found = {}
    return {} if anywhere(not found) else found


def names(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Return the shapes of arrays by their names."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x.shape for path, x in leaves}


def check_arrays(run_dir: Path, step: int) -> None:
    """Look at what a checkpoint says of its arrays; say if it was saved before they had checksums.

    Raises:
        ValueError: as `stored_arrays`.
    """
    is_checked = has_checksums(checkpoint_folder(run_dir, step) / STATE)
    if jax.process_index() == 0 and not is_checked:
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


def _load_alone(run_dir: Path, step: int, target: PyTree) -> Any:
    """Load this process's share; no process waits for another, which may have failed."""
    if not is_finished(run_dir, step):
        raise FileNotFoundError(f"it has no {FINISHED}")
    check_arrays(run_dir, step)
    context, me = ocp.Context(), jax.process_index()
    context.pytree.loading.partial_load = True
    context.file.path_class = LiteralPath
    context.array.saving.array_metadata_store = (
        None  # of keys of random numbers, which we have none
    )
    context.multiprocessing.primary_host = me
    context.multiprocessing.active_processes = {me}
    with context:
        folder = LiteralPath(checkpoint_folder(run_dir, step))
        return ocp.load_checkpointables(folder, {STATE: target})[STATE]
