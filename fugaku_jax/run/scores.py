"""The scores of a run, kept in its directory by whatever graded it: `RUN/scores/NAME.json`.

A file has the checkpoint's step, what was asked for, what is known of contamination, and scores.
Grading again replaces it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.task_score import TaskScore
from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import typed
from fugaku_jax.run.whole_file import write_json

SCORES = "scores"
"""The folder of a run."""


@dataclass(frozen=True)
class Grading:
    """What one grading found."""

    program: str
    """`harness`, `mt-bench`, `perplexity` or `probes`."""
    step: int
    """Of the checkpoint that was graded."""
    asked: Mapping[str, Any]
    """What decided the scores beside the weights, by name."""
    contamination: str
    """What is known of it, as a sentence; "" if nobody asked."""
    scores: Sequence[TaskScore]


def save_grading(run_dir: Path, grading: Grading, name: str = "") -> Path:
    """Keep scores in a run's directory.

    Args:
        run_dir: the run.
        grading: the scores.
        name: of what was done, beside the program's, that a later grading of it replaces.

    Returns:
        the file.

    Raises:
        InputError: it cannot be written.
    """
    file = re.sub(r"[^\w.-]+", "_", "-".join(filter(None, [grading.program, name])))
    path = run_dir / SCORES / f"{file}.json"
    said = asdict(grading)
    said["scores"] = [asdict(each) for each in grading.scores]
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, said)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def read_gradings(run_dir: Path) -> list[Grading]:
    """Return all that are kept, in the order of their files' names.

    Raises:
        InputError: a file is damaged.
    """
    return [_read(path) for path in sorted((run_dir / SCORES).glob("[!.]*.json"))]


def _read(path: Path) -> Grading:
    said = read_json(path)
    try:
        scores = said["scores"]
        if not isinstance(scores, list) or not isinstance(said["asked"], dict):
            raise InputError(f"{path}: scores must be a list, and asked an object.")
        return Grading(
            typed(str, said["program"], f"{path}: program"),
            typed(int, said["step"], f"{path}: step"),
            said["asked"],
            typed(str, said["contamination"], f"{path}: contamination"),
            tuple(typed(TaskScore, each, f"{path}: scores") for each in scores),
        )
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]} is missing.") from None
