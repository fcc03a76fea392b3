"""What the processes of a run do together, and who of them writes."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_writer() -> bool:
    """Tell whether this process is the one that prints and writes the run's files."""
    return jax.process_index() == 0


def wait_for_all(point: str) -> None:
    """Wait until every process has come to this point of the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def anywhere(wish: bool) -> bool:
    """Tell whether any process wishes it: all must stop after the same step."""
    if jax.process_count() == 1:
        return wish
    return bool(np.any(multihost_utils.process_allgather(np.array(wish))))
