"""What a pipeline stage carries from tick to tick, and how it is changed without being copied.

What passes from tick to tick is large: gradients of all weights, and what waits for the backward
passes. XLA's CPU backend copies all that goes through a conditional, whichever branch is taken,
but updates the carry of a loop in place. So a thing that is done or not is a loop of one round or
none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped


class Carry(NamedTuple):
    """What passes from tick to tick.

    Buffers have a leading axis of slots (S), each kind its own number, or of slots' rows (R), a
    layer a row. Shapes are local, as in `stack`.
    """

    inputs: Float[Array, "S B T D"]
    """Activations that have arrived; the last slot takes what nobody wants."""
    gradients: Float[Array, "S_g B T D"]
    """Gradients that have arrived, likewise."""
    residuals: list[Shaped[Array, "R ..."]]
    """Those of chunks that wait for their backward pass; the last slot is for what is computed
    again."""
    outputs: Float[Array, "S_r B T D"]
    """Outputs of chunks, in the same slots."""
    kept_inputs: Float[Array, "S_i B T D"]
    """Inputs of chunks that will be computed again; the last slot takes what nobody wants."""
    deferred: list[Shaped[Array, "R_w ..."]]
    """What `backward_input` has noted for `backward_weight`."""
    message: Float[Array, "B T D"]
    """What the last tick has for a neighbour."""
    loss: Float[Array, ""]
    """Summed over micro-batches; of the last stage, 0 elsewhere."""
    losses: Float[Array, "M B T"] | None
    """The loss of each position, likewise; None if nobody asked for it."""
    d_weights: PyTree[Float[Array, "L ..."]]
    """Gradients of this stage's layers, summed over micro-batches."""
    d_shared: PyTree[Float[Array, "..."]]
    """Gradients of the shared weights, as far as this stage adds to them."""


class Entry(NamedTuple):
    """A stage's row of the table, `[ticks]` each, or one entry of it; -1 stands for none."""

    op: Int[Array, "*t"]
    """What to do: an `Op`."""
    micro_batch: Int[Array, "*t"]
    """Of which micro-batch."""
    chunk: Int[Array, "*t"]
    """Of which of the stage's chunks."""
    input_slot: Int[Array, "*t"]
    """Where the chunk's input waits."""
    gradient_slot: Int[Array, "*t"]
    """Where the gradient of its output waits."""
    residual_slot: Int[Array, "*t"]
    """Where its residuals and its output are."""
    kept_input_slot: Int[Array, "*t"]
    """Where its input is kept, if it is computed again."""
    weight_slot: Int[Array, "*t"]
    """Where lies what the gradients of its weights take."""
    forward_arrival: Int[Array, "*t"]
    """Where to put an activation that a neighbour sends."""
    gradient_arrival: Int[Array, "*t"]
    """Where to put a gradient that a neighbour sends."""
    active: Bool[Array, "*t C"]
    """For each colour of edges whether this stage exchanges."""


class Given(NamedTuple):
    """What the work of a tick reads and does not change."""

    weights: PyTree[Float[Array, "L ..."]]
    shared: PyTree[Float[Array, "..."]]
    entry: Entry


def when(condition: Bool[Array, ""], do: Callable[[Any, Any], Any], carry: Any, given: Any) -> Any:
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
