"""The processes of a run: where they wait for each other, and who of them writes."""

import jax
from jax.experimental import multihost_utils


def is_writer() -> bool:
    """Tell whether this process is the one that prints and writes the run's files."""
    return jax.process_index() == 0


def wait_for_all(point: str) -> None:
    """Wait until every process has come to this point of the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)
