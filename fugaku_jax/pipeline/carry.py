"""What a pipeline stage carries from tick to tick, and how it is changed without being copied.

What passes from tick to tick is large: gradients of all weights, and what waits for the backward
passes. XLA's CPU backend copies all that goes through a conditional, whichever branch is taken,
but updates the carry of a loop in place. So a thing that is done or not is a loop of one round or
none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PyTree


class Carry(NamedTuple):
    """What passes from tick to tick. Buffers have a leading axis of slots, or of slots' rows."""

    inputs: Array
    """Activations that have arrived; the last slot takes what nobody wants."""
    gradients: Array
    """Gradients that have arrived, likewise."""
    kept: list[Array]
    """What `forward` has noted; the last slot is for what is computed again."""
    outputs: Array
    """Outputs of chunks, in the same slots."""
    kept_inputs: Array
    """Inputs of chunks that will be computed again; the last slot takes what nobody wants."""
    left: list[Array]
    """What `backward_input` has noted."""
    message: Array
    """What the last tick has for a neighbour."""
    loss: Array
    d_weights: PyTree[Array]
    d_shared: PyTree[Array]


class Entry(NamedTuple):
    """A stage's row of the table, or one entry of it."""

    op: Array
    micro_batch: Array
    chunk: Array
    input_slot: Array
    gradient_slot: Array
    residual_slot: Array
    kept_input_slot: Array
    weight_slot: Array
    forward_arrival: Array
    gradient_arrival: Array
    active: Array
    """For each colour of edges whether this stage exchanges."""


class Given(NamedTuple):
    """What the work of a tick reads and does not change."""

    weights: PyTree[Array]
    shared: PyTree[Array]
    entry: Entry


def when(condition: Array, do: Callable[[Any, Given], Any], carry: Any, given: Given) -> Any:
    """Do something to a carry, or leave it as it is; in place either way.

    Args:
        condition: whether to do it.
        do: from the carry and what is given to the carry; of the same types.
        carry: what is changed.
        given: what is read.
    """

    def once(state: tuple[Array, Any]) -> tuple[Array, Any]:
        # What depends on nothing that changes in a loop, XLA would compute before it; in every
        # tick, then.
        (todo, carry), held = jax.lax.optimization_barrier((state, given))
        return todo & False, do(carry, held)

    return jax.lax.while_loop(lambda state: state[0], once, (condition, carry))[1]
