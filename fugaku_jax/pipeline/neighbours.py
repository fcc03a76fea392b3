"""How the stages at the two ends of an edge exchange messages: a collective of these two alone."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped


def swap_messages(
    message: Shaped[Array, "*x"], edges: list[int], stages: int, axes: tuple[str, ...]
) -> tuple[Shaped[Array, "*x"], Bool[Array, ""]]:
    """Send a message over an edge and return the one that comes from its other end.

    All stages run the same program, but only those at the ends of an edge in use may call this;
    the two wait for each other and for nobody else.

    Args:
        message: this stage's.
        edges: edges that share no stage; edge e joins the stages e and (e + 1) % S.
        stages: S.
        axes: mesh axes of the stages, all manual.

    Returns:
        the other's message, and whether that stage is the left one of the edge.
    """
    groups = [[edge, (edge + 1) % stages] for edge in edges]
    alone = sorted(set(range(stages)) - {stage for group in groups for stage in group})
    # Groups have to name every stage; these pairs never meet.
    groups += [alone[i : i + 2] for i in range(0, len(alone), 2)]
    right = np.zeros(stages, np.int32)
    right[[(edge + 1) % stages for edge in edges]] = 1
    side = jnp.asarray(right)[jax.lax.axis_index(axes)]
    if len(alone) % 2:
        # A gather wants groups of one size, a sum does not. Bits are summed: with zeros they stay
        # what they are, infinities too, and XLA aborts at a sum of bf16 where axes are left over.
        bits = jax.lax.bitcast_convert_type(message, f"uint{8 * message.dtype.itemsize}")
        mine = jnp.stack([bits * (side == 0), bits * (side == 1)])
        summed = jax.lax.psum(mine, axes, axis_index_groups=groups)
        both = jax.lax.bitcast_convert_type(summed, message.dtype)
    else:
        both = jax.lax.all_gather(message[None], axes, axis_index_groups=groups, tiled=True)
    return jax.lax.dynamic_index_in_dim(both, 1 - side, keepdims=False), side == 1


def touched(edges: list[int], crossing: Bool[np.ndarray, "S T"]) -> Bool[np.ndarray, "S T"]:
    """Return for each stage and tick whether it is at either end of an edge in use.

    Args:
        edges: the edges that count.
        crossing: which edge is in use in which tick, as `schedule.edges_in_use` gives it.
    """
    touched = np.zeros_like(crossing)
    for edge in edges:
        touched[edge] |= crossing[edge]
        touched[(edge + 1) % len(crossing)] |= crossing[edge]
    return touched
