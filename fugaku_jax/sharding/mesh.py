"""The logical six-dimensional device mesh that mirrors the Tofu-D torus."""

from collections.abc import Sequence

import jax
from jax import Device
from jax.sharding import AbstractMesh, AxisType, Mesh

AXES = ("x", "y", "z", "a", "b", "c")
"""Names of the mesh axes, as Tofu-D names its own."""


def make_mesh(devices: Sequence[Device] | None = None) -> Mesh:
    """Lay the devices along the axis `x`; the other five axes have length 1.

    All axes are Explicit: an array's sharding is part of its type, and a mistake is a type error.

    Args:
        devices: the devices in mesh order; all of this job's if not given.
    """
    devices = jax.devices() if devices is None else devices
    shape = (len(devices), 1, 1, 1, 1, 1)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Explicit,) * 6, devices=devices)


def abstract_mesh() -> AbstractMesh:
    """Return the mesh of one device that does not exist: enough to reason about shapes."""
    return AbstractMesh((1,) * 6, AXES, axis_types=(AxisType.Explicit,) * 6)
