"""What a run would be, and how it would lie on its mesh, told without allocating anything."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
from jaxtyping import PyTree

from fugaku_jax.config import Config, MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.models.gpt import flops_per_token, parameter_count
from fugaku_jax.sharding.assignment import Assignment
from fugaku_jax.sharding.mesh import abstract_mesh, assign_axes, rules_of, torus_shape
from fugaku_jax.sharding.rules import use_rules
from fugaku_jax.training.state import abstract_state, check_mesh


def describe_run(config: Config) -> dict[str, Any]:
    """Return `parameters`, `tokens_per_step`, `steps`, `flops_per_token` and the configuration."""
    mesh = jax.sharding.get_abstract_mesh()
    with jax.sharding.use_abstract_mesh(abstract_mesh() if mesh.empty else mesh):
        parameters = parameter_count(config.model)
    return {
        "parameters": parameters,
        "tokens_per_step": config.tokens_per_step,
        "steps": config.training.steps,
        "flops_per_token": flops_per_token(config.model),
        "config": config.to_dict(),
    }


@contextmanager
def use_planned_mesh(config: Config, devices: int | None = None) -> Iterator[Assignment]:
    """Put the mesh of a run in force for a while, on devices that need not exist.

    Args:
        config: the run.
        devices: how many; those of `mesh.shape` if not given, and without that as few as the
            degrees need, -1 counting as 1.

    Raises:
        InputError: the run does not fit the mesh, or the mesh the devices.
    """
    if devices is None:
        devices = _fewest_devices(config.mesh)
    if devices < 1:
        raise InputError(f"--devices is {devices}, but it must be at least 1.")
    assignment = assign_axes(config.mesh, devices)
    mesh = AbstractMesh(
        assignment.shape,
        assignment.names,
        axis_types=(AxisType.Explicit,) * len(assignment.names),
    )
    rules = rules_of(assignment, config.mesh.sequence_parallel)
    with jax.sharding.use_abstract_mesh(mesh), use_rules(rules):
        check_mesh(config)
        yield assignment


@dataclass(frozen=True)
class DeviceBytes:
    """What a run keeps on each device from step to step; gradients and activations come on top."""

    parameters: int
    """Bytes of master weights."""
    optimizer: int
    """Bytes of the optimizer's moments."""


def bytes_per_device(config: Config) -> DeviceBytes:
    """Count the bytes of the state on one device of the mesh in force; every device has as many."""
    state = abstract_state(config)
    moments = state.moments
    return DeviceBytes(_shard_bytes(state.parameters), _shard_bytes((moments.mean, moments.square)))


def _shard_bytes(tree: PyTree[jax.ShapeDtypeStruct]) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _fewest_devices(mesh: MeshConfig) -> int:
    if mesh.shape:
        return math.prod(torus_shape(mesh.shape))
    return math.prod(max(n, 1) for n in (mesh.data, mesh.tensor, mesh.context, mesh.pipeline))
