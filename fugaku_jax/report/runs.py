"""What run directories say, read into memory for a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.run.configuration import CONFIG_FILE, LEDGER_FILE
from fugaku_jax.run.metrics import METRICS_FILE, read_metrics, read_samples
from fugaku_jax.run.scores import Grading, read_gradings
from fugaku_jax.run.sessions import Session, read_sessions
from fugaku_jax.run.stragglers import slow_processes


@dataclass(frozen=True)
class Run:
    """What a run directory says, read into memory."""

    name: str
    """Shortest end of the directory's path that tells it from the others of a page."""
    config: dict[str, Any]
    """`config.json`, nested."""
    ledger: dict[str, Any]
    """`ledger.json`: what the run reads, and in which order."""
    metrics: list[dict[str, float | int]]
    """One dict a step."""
    samples: list[dict[str, Any]]
    """`{step, prompt, text}` each."""
    sessions: list[Session]
    """What each session ran on, and where its time went."""
    gradings: list[Grading]
    """What graded it, in the order of their names."""
    slow_processes: list[str]
    """Those that were slow in the last session that compared them: `rank 3 (node004)`."""

    def column(self, name: str) -> Float[np.ndarray, " N"]:
        """One figure of every step, NaN where it has none."""
        return np.array([line.get(name, np.nan) for line in self.metrics], dtype=float)

    def known(self, name: str) -> Float[np.ndarray, " n"]:
        """One figure of the steps that have it."""
        values = self.column(name)
        return values[np.isfinite(values)]


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """Read run directories.

    Raises:
        InputError: none is given, one is given twice, one is no run directory, or a run has not
            finished a step yet, or its scores are damaged.
    """
    if not run_dirs:
        raise InputError("No run is given; give at least one run directory.")
    paths = [path.resolve() for path in run_dirs]
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"{path} is given twice; give each run once.")
    return [
        _read_run(given, name) for given, name in zip(run_dirs, _short_names(paths), strict=True)
    ]


def _read_run(path: Path, name: str) -> Run:
    config_file = path / CONFIG_FILE
    if not config_file.is_file():
        raise InputError(
            f"{path} is no run directory, for it has no {CONFIG_FILE}; give the directory that "
            f"launch/train.py made."
        )
    config = read_json(config_file)
    metrics = read_metrics(path) if (path / METRICS_FILE).exists() else []
    if not metrics:
        raise InputError(f"{path} has no step in {METRICS_FILE} yet; wait for its first step.")
    slow = slow_processes(path)
    ledger = read_json(path / LEDGER_FILE) if (path / LEDGER_FILE).exists() else {}
    read = read_samples(path), read_sessions(path), read_gradings(path)
    return Run(name, config, ledger, metrics, *read, slow)


def _short_names(paths: Sequence[Path]) -> list[str]:
    parts, names = 1, [path.name for path in paths]
    while len(set(names)) < len(names):
        parts += 1
        names = ["/".join(path.parts[-parts:]) for path in paths]
    return names
