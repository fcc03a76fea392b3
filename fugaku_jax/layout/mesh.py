"""The logical six-dimensional device mesh that mirrors the Tofu-D torus."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
from jax import Device
from jax.sharding import AbstractMesh, AxisType, Mesh
from jaxtyping import Array, PyTree

from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.layout.assignment import Assignment, Part, degrees, without_torus
from fugaku_jax.layout.rules import LOCAL_AXIS, Rules
from fugaku_jax.layout.search import assign
from fugaku_jax.layout.torus import torus_order, torus_places, torus_shape

RANK_MAP = "FUGAKU_JAX_RANK_MAP"


def assign_axes(config: MeshConfig, devices: int) -> Assignment:
    """Find what each mesh axis carries.

    Raises:
        InputError: the degrees of parallelism do not multiply to the number of devices, or the
            shape of the torus has another number of nodes.
    """
    degree = degrees(devices, config.data, config.tensor, config.pipeline, config.context)
    local = config.local
    if degree["tensor"] % local:
        raise InputError(
            f"mesh.local is {local}, but it must divide mesh.tensor, which is {degree['tensor']}."
        )
    nodes, between = devices // local, degree | {"tensor": degree["tensor"] // local}
    if config.shape:
        shape = torus_shape(config.shape)
        if math.prod(shape) != nodes:
            raise InputError(
                f"mesh.shape is {config.shape}, which has {math.prod(shape)} nodes, but there are "
                f"{nodes}, with {local} of the {devices} devices each; give the shape of these."
            )
        assignment = assign(shape, between)
    else:
        assignment = without_torus(between)
    inside = (Part(LOCAL_AXIS, local, "tensor"),) if local > 1 else ()
    return Assignment(assignment.parts + inside)


def make_mesh(
    config: MeshConfig | None = None, devices: Sequence[Device] | int | None = None
) -> tuple[Mesh | AbstractMesh, Rules]:
    """Make the mesh of a run, and say what its axes carry.

    All axes are Explicit: an array's sharding is part of its type, and a mistake is a type error.
    Devices stand in the order of ranks, which is that of `launch/plan.py vcoordfile`. If the job
    was started with another rank map, the environment variable FUGAKU_JAX_RANK_MAP names its file.

    Args:
        config: how many devices share the work, and how.
        devices: in the order of their processes; all of this job's if not given. A number stands
            for devices that need not exist: the mesh is an abstract one.

    Raises:
        InputError: the mesh does not fit the devices, or the rank map does not fit the job.
    """
    config = config or MeshConfig()
    devices = jax.devices() if devices is None else devices
    count = devices if isinstance(devices, int) else len(devices)
    assignment = assign_axes(config, count)
    shape, names = assignment.shape, assignment.names
    types, rules = (AxisType.Explicit,) * len(names), rules_of(assignment, config.sequence_parallel)
    if isinstance(devices, int):
        return AbstractMesh(shape, names, axis_types=types), rules
    rank_map = _given_rank_map()
    if rank_map and config.shape:
        processes = [device.process_index for device in devices]
        devices = [devices[d] for d in torus_order(processes, config, rank_map)]
    return jax.make_mesh(shape, names, axis_types=types, devices=devices), rules


def process_places(config: MeshConfig, processes: int) -> list[str]:
    """Say where in the torus the node of each process is; arguments as of `torus_places`."""
    return torus_places(config, processes, _given_rank_map())


def _given_rank_map() -> Path | None:
    """Return the rank map that the job was started with, if it is not the mesh's own."""
    return Path(path) if (path := os.environ.get(RANK_MAP)) else None


@contextmanager
def active(mesh: Mesh | AbstractMesh) -> Iterator[None]:
    """Let JAX lay arrays out on a mesh, in this thread, and compute in 32 bits.

    Whatever JAX_ENABLE_X64 says: every type in this package is meant.
    """
    is_abstract = isinstance(mesh, AbstractMesh)
    with jax.enable_x64(False), jax.set_mesh(None if is_abstract else mesh):
        if not is_abstract:
            yield
        else:
            with jax.sharding.use_abstract_mesh(mesh):
                yield


def describe_mesh(mesh: Mesh | AbstractMesh, rules: Rules) -> str:
    """Return a mesh and what its axes carry, as `x=4 data, b=3 tensor`."""
    kinds = ("pipeline", "data", "context", "tensor")
    carried = {axis: kind for kind in kinds for axis in getattr(rules, kind)}
    axes = (f"{axis}={size} {carried.get(axis, '')}" for axis, size in mesh.shape.items())
    return ", ".join(text for text, size in zip(axes, mesh.shape.values(), strict=True) if size > 1)


def rules_of(assignment: Assignment, sequence_parallel: bool) -> Rules:
    """Return the rules of an assignment; its axes of length 1 carry nothing."""
    long = {part.name: part.size for part in assignment.parts if part.size > 1}

    def axes(kind: str) -> tuple[str, ...]:
        return tuple(name for name in assignment.axes(kind) if name in long)

    kinds = axes("data"), axes("tensor"), axes("context"), axes("pipeline")
    return Rules(*kinds, sequence_parallel, tuple(long.items()))


def mesh_of(arrays: PyTree[Array]) -> Mesh:
    """Return the mesh that arrays lie on."""
    return jax.tree.leaves(arrays)[0].sharding.mesh
