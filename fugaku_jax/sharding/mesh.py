"""The logical six-dimensional device mesh that mirrors the Tofu-D torus."""

import math
from collections.abc import Sequence

import jax
from jax import Device
from jax.sharding import AbstractMesh, AxisType, Mesh

from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.sharding.assignment import Assignment, assign, degrees, logical_shape
from fugaku_jax.sharding.rules import Rules, get_rules, set_rules
from fugaku_jax.tofu.allocation import fold, parse_shape
from fugaku_jax.tofu.topology import AXES


def assign_axes(config: MeshConfig, devices: int) -> Assignment:
    """Find what each mesh axis carries.

    Raises:
        InputError: the degrees of parallelism do not multiply to the number of devices, or the
            shape of the torus has another number of nodes.
    """
    degree = degrees(devices, config.data, config.tensor, config.pipeline, config.context)
    if not config.shape:
        return assign(logical_shape(devices, degree), degree)
    shape = torus_shape(config.shape)
    if math.prod(shape) != devices:
        raise InputError(
            f"mesh.shape is {config.shape}, which has {math.prod(shape)} nodes, but there are "
            f"{devices} devices; give the shape of these."
        )
    return assign(shape, degree)


def make_mesh(
    assignment: Assignment | None = None, devices: Sequence[Device] | None = None
) -> Mesh:
    """Lay devices out as an assignment says; without one, all along the axis `x`.

    All axes are Explicit: an array's sharding is part of its type, and a mistake is a type error.

    Args:
        devices: the devices, in row-major order of the mesh; all of this job's if not given, in
            the order of their processes, which is that of the ranks.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if assignment is None:
        shape, names = (len(devices), 1, 1, 1, 1, 1), AXES
    else:
        shape, names = assignment.shape, assignment.names
    return jax.make_mesh(
        shape, names, axis_types=(AxisType.Explicit,) * len(names), devices=devices
    )


def set_mesh(config: MeshConfig | None = None, devices: Sequence[Device] | None = None) -> Mesh:
    """Make the mesh of a run, and put it and what its axes carry in force.

    Raises:
        InputError: the mesh does not fit the devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    config = config or MeshConfig()
    assignment = assign_axes(config, count)
    mesh = make_mesh(assignment, devices)
    set_rules(rules_of(assignment, config.sequence_parallel))
    jax.set_mesh(mesh)
    return mesh


def describe_mesh() -> str:
    """Return the mesh that is set and what its axes carry, as `x=4 data, b=3 tensor`."""
    mesh, rules = jax.sharding.get_abstract_mesh(), get_rules()
    kinds = ("pipeline", "data", "context", "tensor")
    carried = {axis: kind for kind in kinds for axis in getattr(rules, kind)}
    axes = (f"{axis}={size} {carried.get(axis, '')}" for axis, size in mesh.shape.items())
    return ", ".join(text for text, size in zip(axes, mesh.shape.values(), strict=True) if size > 1)


def rules_of(assignment: Assignment, sequence_parallel: bool) -> Rules:
    """Return the rules of an assignment; its axes of length 1 carry nothing."""
    long = {part.name for part in assignment.parts if part.size > 1}

    def axes(kind: str) -> tuple[str, ...]:
        return tuple(name for name in assignment.axes(kind) if name in long)

    return Rules(axes("data"), axes("tensor"), axes("context"), axes("pipeline"), sequence_parallel)


def abstract_mesh() -> AbstractMesh:
    """Return the mesh of one device that does not exist: enough to reason about shapes."""
    return AbstractMesh((1,) * 6, AXES, axis_types=(AxisType.Explicit,) * 6)


def torus_shape(text: str) -> tuple[int, ...]:
    """Read `mesh.shape`: six sizes, or a job's one to three, which are folded.

    Raises:
        InputError: it is neither, or it does not fold.
    """
    sizes = text.split("x")
    if len(sizes) == len(AXES) and all(size.isdigit() and int(size) for size in sizes):
        return tuple(map(int, sizes))
    return fold(parse_shape(text)).shape
