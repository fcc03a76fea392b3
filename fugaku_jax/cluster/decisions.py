"""What all processes of a run answer together: each has a wish, and all hear of any."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec


def anywhere(wish: bool) -> bool:
    """Tell whether any process wishes it; all wait for each other."""
    if jax.process_count() == 1:
        return wish
    return bool(np.any(multihost_utils.process_allgather(np.array(wish))))


def ask_all(wish: bool) -> Callable[[], bool]:
    """Begin to ask whether any process wishes it, behind what the devices have yet to do.

    All processes must ask at the same point of the program.

    Returns:
        a function that waits for the answer, and tells it.
    """
    shape = (jax.process_count(), jax.local_device_count())
    mesh = jax.make_mesh(shape, ("processes", "devices"), devices=jax.devices())
    each = NamedSharding(mesh, PartitionSpec("processes"))
    wishes = jax.make_array_from_callback(shape[:1], each, lambda _: np.array([wish]))
    with jax.set_mesh(mesh):
        answer = _any(wishes)
    return lambda: bool(answer)


@jax.jit
def _any(wishes: jax.Array) -> jax.Array:
    return jnp.any(wishes)
