"""The weights in a checkpoint and nothing else of it; with its adapters in them, if it has some."""

import functools
from collections.abc import Collection
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.layout import tuned_by
from fugaku_jax.run.configuration import read_config
from fugaku_jax.training.checkpoint_reading import load, saved_names
from fugaku_jax.training.storage_order import (
    parameters_in_storage_order,
    saved_adapter_types,
    saved_parameter_types,
)
from fugaku_jax.training.whole_model import with_adapters


def load_weights(
    run_dir: Path,
    step: int,
    layout: Layout,
    dtype: DTypeLike = jnp.float32,
    exactly: Collection[str] = (),
) -> PyTree[Float[Array, "..."]]:
    """Load weights as a checkpoint holds them.

    Args:
        run_dir: the run.
        step: of the checkpoint.
        layout: where they belong.
        dtype: type that they are cast to, each as it is read.
        exactly: layers of a block whose kernels are left in fp32.

    Raises:
        DamagedCheckpoint: it cannot be read.
        InputError: it is of a later version.
    """

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        as_it_is = path[0].key == "blocks" and path[1].key in exactly
        kind = jnp.float32 if as_it_is else dtype
        return jax.ShapeDtypeStruct(x.shape, kind, sharding=x.sharding)

    types = jax.tree.map_with_path(leaf, on_mesh(layout, saved_parameter_types(layout)))
    loaded = load(run_dir, step, {"parameters": types})["parameters"]
    return parameters_in_storage_order(layout, loaded)


def load_whole_weights(
    run_dir: Path, step: int, layout: Layout, dtype: DTypeLike = jnp.float32
) -> PyTree[Float[Array, "..."]]:
    """Load weights, with the adapters in them that the run has learned; as `load_weights`.

    The weights that have adapters are read as they are, and are cast with these in them.
    """
    if not any(name.endswith(".lora_a") for name in saved_names(run_dir, step)):
        return load_weights(run_dir, step, layout, dtype)
    layout = tuned_by(layout, read_config(run_dir).tuning)
    types = on_mesh(layout, saved_adapter_types(layout))
    loaded = load(run_dir, step, {"parameters": types})["parameters"]
    adapters = parameters_in_storage_order(layout, loaded, are_adapters=True)
    weights = load_weights(run_dir, 0, layout, dtype, exactly=adapters["blocks"])
    with layout.active():
        return with_adapters(layout, weights, adapters, dtype)


def on_mesh(layout: Layout, shapes: PyTree[jax.ShapeDtypeStruct]) -> PyTree[jax.ShapeDtypeStruct]:
    """Give abstract arrays the concrete sharding that Orbax asks for."""
    return jax.tree.map(functools.partial(placed, layout), shapes)


def placed(layout: Layout, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Give an abstract array the concrete sharding that Orbax asks for."""
    spec = PartitionSpec() if shape.sharding is None else shape.sharding.spec
    sharding = NamedSharding(layout.mesh, spec)
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
