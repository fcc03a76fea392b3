"""The model of a run for use: validated, sampled from, evaluated, exported."""

import functools
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from fugaku_jax.collectives.sums import all_gather
from fugaku_jax.layout.ends import on_all_stages, whole_of_ends
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.placement import Placement
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layout import whole
from fugaku_jax.models.lora import lora_targets, merged_stack


def whole_model(
    layout: Layout,
    parameters: PyTree[Float[Array, "..."]],
    frozen: PyTree[Float[Array, "..."]] | None = None,
) -> GPT:
    """Return the model for use, with all its weights in every tensor group, layers in their order.

    Args:
        layout: of the parameters.
        parameters: of a run; its adapters, if `frozen` are its weights.
        frozen: the weights of a run that learns adapters; those that have some are copied.
    """
    if frozen is not None:
        with layout.active():
            parameters = with_adapters(layout, frozen, parameters)
    where = jax.tree.leaves(layout.placements)
    if not layout.stages.is_plain or any(placement.weight for placement in where):
        with layout.active():
            parameters = _gathered(layout, parameters)
    return nnx.merge(whole(layout).structure, parameters)


@functools.partial(jax.jit, static_argnums=(0, 3))
def with_adapters(
    layout: Layout,
    weights: PyTree[Float[Array, "..."]],
    adapters: PyTree[Float[Array, "..."]],
    dtype: DTypeLike | None = None,
) -> PyTree[Float[Array, "..."]]:
    """Return weights with the adapters in them, each where it lies.

    Args:
        layout: of both.
        weights: of a model.
        adapters: beside some of its kernels.
        dtype: type of the result; that of each weight if not given.
    """

    def merge(blocks: PyTree, adapters: PyTree) -> PyTree:
        merged = merged_stack(layout.config, blocks, adapters)
        return jax.tree.map(lambda x: x.astype(dtype or x.dtype), merged)

    names = [target.kernel for target in lora_targets(layout.config.model, layout.config.tuning)]
    where = {name: layout.placements["blocks"][name] for name in names}
    lie = jax.tree.map(lambda p: p.spec(state=False), where)
    on_mesh: Any = jax.sharding.auto_axes(merge, axes=layout.mesh.axis_names, out_sharding=lie)
    blocks = weights["blocks"]
    merged = on_mesh({name: blocks[name] for name in names}, adapters["blocks"])
    return weights | {"blocks": blocks | merged}


@functools.partial(jax.jit, static_argnums=0)
def _gathered(
    layout: Layout, parameters: PyTree[Float[Array, "..."]]
) -> PyTree[Float[Array, "..."]]:
    def gather(x: Array, placement: Placement) -> Array:
        x, placement = whole_of_ends(x, placement, state=False), on_all_stages(placement)
        if not placement.weight:
            return x
        return jax.shard_map(  # XLA's own way would have all replicas in one group
            lambda x: all_gather(x, placement.weight),
            in_specs=placement.spec(state=False),
            out_specs=placement.explicit,
            check_vma=False,
        )(x)

    gathered = jax.tree.map(gather, parameters, layout.placements)
    return gathered | {"blocks": jax.tree.map(layout.stages.restore, gathered["blocks"])}
