"""What the processes of a run must agree on before one of them goes on."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def anywhere(wish: bool) -> bool:
    """Tell whether any process wishes it."""
    if jax.process_count() == 1:
        return wish
    return bool(np.any(multihost_utils.process_allgather(np.array(wish))))


def wait_for_all(point: str) -> None:
    """Go on when all processes have come to this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)
