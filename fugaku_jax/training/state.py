"""The state of a run: weights, moments and counters, and where each lies on the mesh."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Int, PyTree

from fugaku_jax.config import Config, ModelConfig
from fugaku_jax.errors import InputError
from fugaku_jax.layout.placement import Placement, place
from fugaku_jax.layout.rules import devices_along, get_rules, parts
from fugaku_jax.layout.stages import Stages, make_stages
from fugaku_jax.models.gpt import GPT
from fugaku_jax.training.optimizer import Moments
from fugaku_jax.training.precision import LossScale, initial_loss_scale


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes."""

    parameters: PyTree[Array]
    """Master weights, fp32, as nested dictionaries; layers in the storage order of `Stages`."""
    moments: Moments
    """What the optimizer remembers."""
    step: Int[Array, ""]
    """Steps taken; it is also the position in the data and the seed of dropout."""
    loss_scale: LossScale | None
    """Dynamic loss scale; None but in fp16."""


def abstract_model(config: Config) -> tuple[nnx.GraphDef[GPT], PyTree[jax.ShapeDtypeStruct]]:
    """Return the model's structure and the shapes of its weights, allocating nothing.

    Raises:
        InputError: the tensor devices of the mesh cannot share them.
    """
    _check_model(config.model)
    model = jax.eval_shape(lambda: GPT(config.model, jax.random.key(0)))
    structure, shapes = nnx.split(model)
    return structure, nnx.to_pure_dict(shapes)


def stages_of(config: Config) -> Stages:
    """Return which layers each stage of the mesh holds.

    Raises:
        InputError: the layers do not fit the stages.
    """
    return make_stages(config.model.n_layers, config.mesh, parts("stage"))


def placements(config: Config) -> PyTree[Placement]:
    """Return where each weight lies on the mesh that is set, as the weights are nested."""
    rules, mesh = get_rules(), jax.sharding.get_abstract_mesh()
    stages = stages_of(config)

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> Placement:
        stacked = path[0].key == "blocks"
        shape = (stages.layers.size, *leaf.shape[1:]) if stacked else leaf.shape
        explicit = leaf.sharding.spec
        return place(shape, explicit, dict(mesh.shape), rules, config.mesh, stacked=stacked)

    return jax.tree_util.tree_map_with_path(one, abstract_model(config)[1])


@functools.partial(jax.jit, static_argnums=0)
def init_state(config: Config) -> TrainState:
    """Make the state that a run starts from, each array already where it belongs.

    Raises:
        InputError: the tensor devices of the mesh cannot share the model.
    """
    _check_model(config.model)
    model_key, _ = run_keys(config)
    parameters = nnx.to_pure_dict(nnx.state(GPT(config.model, model_key)))
    parameters["blocks"] = jax.tree.map(stages_of(config).store, parameters["blocks"])
    where = placements(config)

    def weight(x: Array, placement: Placement) -> Array:
        return reshard(x, placement.spec(state=False))

    return fresh_state(config, jax.tree.map(weight, parameters, where))


@functools.partial(jax.jit, static_argnums=0)
def fresh_state(config: Config, parameters: PyTree[Array]) -> TrainState:
    """Make the state before the first step, with these parameters, each where it belongs."""
    where = placements(config)

    def zeros(x: Array, placement: Placement) -> Array:
        return jnp.zeros(x.shape, jnp.float32, out_sharding=placement.spec(state=True))

    return TrainState(
        parameters=parameters,
        moments=Moments(
            jax.tree.map(zeros, parameters, where),
            jax.tree.map(zeros, parameters, where),
            jnp.int32(0),
        ),
        step=jnp.int32(0),
        loss_scale=initial_loss_scale(config.training.precision),
    )


def abstract_state(config: Config) -> TrainState:
    """Return the shapes and shardings of a run's state, allocating nothing."""
    return jax.eval_shape(functools.partial(init_state, config))


def whole_model(config: Config, parameters: PyTree[Array]) -> GPT:
    """Return the model with all its weights in every tensor group, layers in their order.

    It is for use under `Rules.without_stages`.
    """
    stages, where = stages_of(config), placements(config)
    if not stages.is_plain or any(p.weight for p in jax.tree.leaves(where)):
        parameters = _gathered(config, parameters)
    return nnx.merge(abstract_model(config)[0], parameters)


@functools.partial(jax.jit, static_argnums=0)
def _gathered(config: Config, parameters: PyTree[Array]) -> PyTree[Array]:
    explicit = jax.tree.map(lambda p: p.explicit, placements(config))
    whole = jax.tree.map(reshard, parameters, explicit)
    return whole | {"blocks": jax.tree.map(stages_of(config).restore, whole["blocks"])}


def check_mesh(config: Config) -> None:
    """Refuse a run that does not fit the mesh that is set.

    Raises:
        InputError: heads, feed-forward, positions, rows or layers cannot be shared as asked.
    """
    model, training = config.model, config.training
    _check_model(model)
    rows = training.batch_size // training.micro_batches
    length, context = model.sequence_length, devices_along(get_rules().context)
    _check_multiple("model.sequence_length", length, context, "mesh.context")
    _check_multiple(
        "training.batch_size / training.micro_batches", rows, parts("batch"), "mesh.data"
    )
    if context > 1 and length // context % 4:
        raise InputError(
            f"model.sequence_length is {length}, but each of the {context} devices of "
            "mesh.context must get a multiple of 4 positions."
        )
    stages_of(config)


def _check_model(model: ModelConfig) -> None:
    _check_multiple("model.n_heads", model.n_heads, parts("heads"), "mesh.tensor")
    _check_multiple("model.n_kv_heads", model.kv_heads, parts("heads"), "mesh.tensor")
    _check_multiple("model.d_ff", model.feed_forward, parts("mlp"), "mesh.tensor")


def _check_multiple(name: str, value: int, ways: int, kind: str) -> None:
    if value % ways:
        raise InputError(f"{name} is {value}, but it must be a multiple of the {ways} {kind}.")


def state_specs(config: Config, spec: Callable[[Placement, bool], PartitionSpec]) -> Any:
    """Return a state with specs in the place of its arrays.

    Args:
        spec: gives that of a weight (false) or of its optimizer state (true).
    """
    where = placements(config)

    def specs(is_state: bool) -> PyTree[PartitionSpec]:
        return jax.tree.map(lambda placement: spec(placement, is_state), where)

    everywhere: Any = PartitionSpec()
    scale = initial_loss_scale(config.training.precision)
    return TrainState(
        parameters=specs(False),
        moments=Moments(specs(True), specs(True), everywhere),
        step=everywhere,
        loss_scale=jax.tree.map(lambda _: everywhere, scale),
    )


def run_keys(config: Config) -> tuple[Any, Any]:
    """Return the keys of the initial weights and of dropout."""
    model_key, dropout_key = jax.random.split(jax.random.key(config.training.seed))
    return model_key, dropout_key
