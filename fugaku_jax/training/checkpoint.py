"""Checkpoints of a run: saved in the background, complete or absent, restored onto any layout.

A checkpoint holds the arrays of `TrainState`: parameters, moments, loss scale, and the step, which
is also the position in the data and the seed of dropout (batch = f(step)). Beside them stands
what the numbers mean: the configuration and the hash of the store. That of step 0, which only an
imported run has, holds the parameters alone.
"""

import functools
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from fugaku_jax.config import CheckpointConfig, Config, MeshConfig, config_from_dict
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.models.gpt import GPT
from fugaku_jax.sharding.rules import get_rules, use_rules
from fugaku_jax.training.layout import (
    in_layer_order,
    in_storage_order,
    parameters_in_storage_order,
)
from fugaku_jax.training.state import TrainState, abstract_state, fresh_state, whole_model

CONFIG_FILE = "config.json"
CHUNK_BYTES = 1 << 28
"""Most bytes of an array that can only be read together."""


class RunCheckpoints:
    """The checkpoints in one run directory; a context manager that waits for the last save."""

    def __init__(self, run_dir: Path, config: CheckpointConfig | None = None) -> None:
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            str((run_dir / "checkpoints").resolve()),
            preservation_policy=policies.LatestN(config.keep) if config else None,  # pyrefly: ignore[bad-argument-type]
            cleanup_tmp_directories=config is not None,
        )

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, config: Config, state: TrainState, identity: dict[str, Any]) -> None:
        """Start saving; returns once the arrays are safe from being overwritten.

        Args:
            step: steps taken.
            config: the run.
            state: what to save; may be donated as soon as this returns.
            identity: what the numbers mean: configuration and data, as JSON can hold it.
        """
        # Orbax holds views of the arrays while it writes; JAX then copies what is donated
        # rather than overwrite it, so the training goes on at once.
        with _saving():
            self._checkpointer.save_checkpointables_async(
                step, {"state": in_layer_order(config, state), "identity": identity}, force=True
            )

    def save_parameters(self, parameters: PyTree[Array], identity: dict[str, Any]) -> None:
        """Save the parameters that an imported run starts from, as step 0."""
        state = {"parameters": parameters}
        self._checkpointer.save_checkpointables(0, {"state": state, "identity": identity})

    def restore(self, config: Config) -> TrainState:
        """Load the newest checkpoint, each array laid out as this run's mesh wants it."""
        if self.latest_step() == 0:
            return fresh_state(config, self.restore_parameters(config))
        loaded = self._checkpointer.load_checkpointables(None, {"state": _saved_state(config)})
        return in_storage_order(config, loaded["state"])

    def restore_parameters(self, config: Config, dtype: DTypeLike = jnp.float32) -> PyTree[Array]:
        """Load the parameters of the newest checkpoint and nothing else of it.

        Args:
            config: the run, on the mesh that is set.
            dtype: type that they are cast to, each as it is read.
        """
        saved = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding),
            _saved_state(config).parameters,
        )
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context:
            loaded = self._checkpointer.load_checkpointables(None, {"state": {"parameters": saved}})
        return parameters_in_storage_order(config, loaded["state"]["parameters"])


def load_model(run_dir: Path, dtype: DTypeLike = jnp.float32) -> tuple[Config, GPT]:
    """Load configuration and weights of a run's newest checkpoint, for use rather than training.

    The weights are split by the tensor axes of the mesh that is set; all its other axes carry data,
    whatever the run's own mesh was. The configuration says so, and the model is for use under
    `Rules.without_stages`.

    Args:
        run_dir: the run.
        dtype: type of the weights.

    Raises:
        InputError: the directory is no run, or nothing was saved in it yet.
    """
    config = replace(read_config(run_dir), mesh=MeshConfig())
    with RunCheckpoints(run_dir) as checkpoints, use_rules(get_rules().without_stages()):
        if checkpoints.latest_step() is None:
            raise InputError(f"{run_dir} has no checkpoint yet; train it first.")
        parameters = checkpoints.restore_parameters(config, dtype)
        return config, whole_model(config, parameters)


def read_config(run_dir: Path) -> Config:
    """Read a run's configuration.

    Raises:
        InputError: there is none, or it is not one of this version's.
    """
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise InputError(f"{run_dir} is no run: it has no {CONFIG_FILE}.")
    fields = read_json(path)
    try:
        return config_from_dict(fields)
    except InputError as error:
        raise InputError(f"{path} cannot be read as a configuration: {error}") from error


def _saving() -> ocp.Context:
    """Cut large arrays in chunks, for a layer to be read without the others of its stack."""
    options = ocp.options.ArrayOptions.Saving.StorageOptions

    def cut(key: tuple[Any, ...], value: Any) -> Any:
        if np.ndim(value) == 0:
            return None
        stacked = "blocks" in jax.tree_util.keystr(key)
        return options(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if stacked else None)

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = cut
    return context


def _saved_state(config: Config) -> TrainState:
    """Return the shapes of a checkpoint's arrays, and where this mesh wants them."""
    target = jax.eval_shape(functools.partial(in_layer_order, config), abstract_state(config))
    return jax.tree.map(placed, target)


def placed(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Give an abstract array the concrete sharding that Orbax asks for."""
    spec = PartitionSpec() if shape.sharding is None else shape.sharding.spec
    sharding = NamedSharding(jax.sharding.get_mesh(), spec)
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
