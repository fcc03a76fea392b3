"""The model of a run for use: validated, sampled from, evaluated, exported."""

import functools

import jax
from flax import nnx
from jax.sharding import reshard
from jaxtyping import Array, Float, PyTree

from fugaku_jax.layout.ends import whole_of_ends
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layout import whole


def whole_model(layout: Layout, parameters: PyTree[Float[Array, "..."]]) -> GPT:
    """Return the model for use, with all its weights in every tensor group, layers in their order.

    Args:
        layout: of the parameters.
        parameters: of a run.
    """
    where = jax.tree.leaves(layout.placements)
    if not layout.stages.is_plain or any(placement.weight for placement in where):
        with layout.active():
            parameters = _gathered(layout, parameters)
    return nnx.merge(whole(layout).structure, parameters)


@functools.partial(jax.jit, static_argnums=0)
def _gathered(
    layout: Layout, parameters: PyTree[Float[Array, "..."]]
) -> PyTree[Float[Array, "..."]]:
    gathered = jax.tree.map(
        lambda x, p: reshard(whole_of_ends(x, p, state=False), p.explicit),
        parameters,
        layout.placements,
    )
    return gathered | {"blocks": jax.tree.map(layout.stages.restore, gathered["blocks"])}
