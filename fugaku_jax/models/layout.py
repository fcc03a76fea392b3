"""Makes the layout of a run, which takes the shapes of its model's weights."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax
from flax import nnx
from jax import Device
from jax.sharding import AbstractMesh, Mesh

from fugaku_jax.config import Config, MeshConfig, ModelConfig, TuningConfig
from fugaku_jax.errors import InputError
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.mesh import active, make_mesh
from fugaku_jax.layout.placement import Placement, place
from fugaku_jax.layout.rules import Rules
from fugaku_jax.layout.stages import make_stages
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.lora import adapter_shapes
from fugaku_jax.sections.tuning import WITH_ADAPTERS


def make_layout(config: Config, devices: Sequence[Device] | int | None = None) -> Layout:
    """Lay a run out.

    Args:
        config: the run.
        devices: of the mesh, in the order of their processes; all of this job's if not given. A
            number stands for devices that need not exist.

    Raises:
        InputError: the mesh does not fit the devices, or the run the mesh: heads, feed-forward,
            positions, rows or layers cannot be shared as asked.
    """
    mesh, rules = make_mesh(config.mesh, devices)
    _check_positions_and_rows(config, rules)
    layout = _layout(config, mesh, rules)
    if rules.pipeline:
        _ = layout.pipeline  # refuses what does not fit
    return layout


def layout_for_use(config: Config, devices: Sequence[Device] | int | None = None) -> Layout:
    """Lay a run's model out for use rather than training; arguments as of `make_layout`.

    It lies whole in every tensor group; all other axes carry data.

    Raises:
        InputError: the mesh does not fit the devices, or its tensor devices cannot share the model.
    """
    return _whole(config, *make_mesh(config.mesh, devices))


def whole(layout: Layout) -> Layout:
    """Return the layout for the use of a run's model on the mesh that trains it."""
    return _whole(layout.config, layout.mesh, layout.rules)


def tuned_by(layout: Layout, tuning: TuningConfig) -> Layout:
    """Return the layout of the same model on the same mesh, tuned in another way."""
    return _layout(replace(layout.config, tuning=tuning), layout.mesh, layout.rules)


def _whole(config: Config, mesh: Mesh | AbstractMesh, rules: Rules) -> Layout:
    return _layout(replace(config, mesh=MeshConfig()), mesh, rules.without_stages())


@functools.lru_cache
def _layout(config: Config, mesh: Mesh | AbstractMesh, rules: Rules) -> Layout:
    _check_model(config.model, rules)
    stages = make_stages(config.model.n_layers, config.mesh, rules.parts("stage"))
    with active(mesh):
        model = jax.eval_shape(lambda: GPT(config.model, jax.random.key(0), rules))
    structure, weights = nnx.split(model)
    shapes, is_lora = nnx.to_pure_dict(weights), config.tuning.method in WITH_ADAPTERS
    adapters = adapter_shapes(config, shapes["blocks"]) if is_lora else None

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> Placement:
        stacked = path[0].key == "blocks"
        shape = (stages.layers.size, *leaf.shape[1:]) if stacked else leaf.shape
        explicit = leaf.sharding.spec
        return place(shape, explicit, dict(mesh.shape), rules, config.mesh, stacked=stacked)

    placements, adapter_placements = (
        tree and jax.tree.map_with_path(one, tree) for tree in (shapes, adapters)
    )
    return Layout(
        *(config, mesh, rules, stages, structure, shapes, placements),
        *(adapters, adapter_placements),
    )


def _check_positions_and_rows(config: Config, rules: Rules) -> None:
    model, training = config.model, config.training
    rows = training.batch_size // training.micro_batches
    length, context = model.sequence_length, rules.devices_along(rules.context)
    _check_multiple("model.sequence_length", length, context, "mesh.context")
    _check_multiple(
        "training.batch_size / training.micro_batches", rows, rules.parts("batch"), "mesh.data"
    )
    if context > 1 and length // context % 4:
        raise InputError(
            f"model.sequence_length is {length}, but each of the {context} devices of "
            "mesh.context must get a multiple of 4 positions."
        )


def _check_model(model: ModelConfig, rules: Rules) -> None:
    _check_multiple("model.n_heads", model.n_heads, rules.parts("heads"), "mesh.tensor")
    _check_multiple("model.n_kv_heads", model.kv_heads, rules.parts("heads"), "mesh.tensor")
    _check_multiple("model.d_ff", model.feed_forward, rules.parts("mlp"), "mesh.tensor")


def _check_multiple(name: str, value: int, ways: int, kind: str) -> None:
    if value % ways:
        raise InputError(f"{name} is {value}, but it must be a multiple of the {ways} {kind}.")
