"""How a run would lie on its mesh, told without allocating anything."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import optax
from jaxtyping import Int, PyTree

from fugaku_jax.config import Config, MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.layout.assignment import Assignment
from fugaku_jax.layout.factors import KINDS
from fugaku_jax.layout.mesh import assign_axes, describe_mesh
from fugaku_jax.layout.rules import LOCAL_AXIS
from fugaku_jax.layout.torus import torus_shape
from fugaku_jax.models.layout import make_layout
from fugaku_jax.models.size import parameter_count
from fugaku_jax.pipeline.duration import bubble, formula_bubble
from fugaku_jax.pipeline.schedule import Schedule
from fugaku_jax.tofu.allocation import RankMap, fold, parse_shape, write_vcoordfile
from fugaku_jax.tofu.topology import AXES
from fugaku_jax.training.optimizer import make_optimizer
from fugaku_jax.training.state import abstract_state


@dataclass(frozen=True)
class RunPlan:
    """How a run lies on a mesh."""

    parameters: int
    """Weights of the model."""
    assignment: Assignment
    """What every mesh axis carries."""
    mesh: str
    """The same as text, `x=4 data, b=3 tensor`; empty for a single device."""
    parameter_bytes: int
    """Bytes of master weights on each device."""
    optimizer_bytes: int
    """Bytes of what the optimizer remembers on each device, but for single counters."""
    layers: tuple[str, ...]
    """The layers of each pipeline stage as text, `0–4`, or `0–1, 4–5` where it has two runs."""
    recomputes: tuple[str, ...]
    """Whether each stage keeps its inputs only and recomputes the rest: `yes` or `no`."""
    schedule: Schedule
    """What each stage does when."""

    @property
    def nodes(self) -> Assignment:
        """What the axes between nodes carry, without that of the devices of a node."""
        return Assignment(tuple(p for p in self.assignment.parts if p.name != LOCAL_AXIS))

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes along x y z a b c."""
        return _shape(self.assignment)

    @property
    def degrees(self) -> dict[str, int]:
        """How many ways each kind of parallelism divides the devices."""
        parts = self.assignment.parts
        return {kind: math.prod(p.size for p in parts if p.kind == kind) for kind in KINDS}


def plan_run(
    config: Config,
    devices: int | None = None,
    built: optax.GradientTransformation | None = None,
) -> RunPlan:
    """Lay a run out on devices that need not exist.

    Args:
        config: the run.
        devices: how many; those of `mesh.shape` if not given, and without that as few as the
            degrees need.
        built: what its recipe updates the weights by, if `optimizer.kind` is `recipe`.

    Raises:
        InputError: the run does not fit the mesh, or the mesh the devices.
    """
    if devices is None:
        devices = _fewest_devices(config.mesh)
    if devices < 1:
        raise InputError(f"--devices is {devices}, but it must be at least 1.")
    assignment = assign_axes(config.mesh, devices)
    layout = make_layout(config, devices)
    state = abstract_state(layout, make_optimizer(layout, built))
    schedule, slots = layout.pipeline
    return RunPlan(
        parameters=parameter_count(config.model),
        assignment=assignment,
        mesh=describe_mesh(layout.mesh, layout.rules),
        parameter_bytes=_shard_bytes((state.parameters, state.frozen)),
        optimizer_bytes=_shard_bytes([x for x in jax.tree.leaves(state.moments) if x.shape]),
        layers=tuple(map(_ranges, layout.stages.layers)),
        recomputes=tuple("yes" if recompute else "no" for recompute in slots.recompute),
        schedule=schedule,
    )


def describe_schedule(schedule: Schedule) -> str:
    """Return its size and its bubble, which is modelled, in one line."""
    numbers = schedule.stages, schedule.micro_batches, schedule.chunks
    by_table, by_formula = bubble(schedule), formula_bubble(schedule.kind, *numbers)
    return (
        f"{schedule.kind}: stages {numbers[0]}, micro-batches {numbers[1]}, "
        f"chunks a stage {numbers[2]}, ticks {schedule.ticks}; "
        f"modelled bubble: table {by_table:.2%}, formula {by_formula:.2%}"
    )


def write_rank_map(config: Config, path: Path, job: str = "") -> Path:
    """Write the vcoordfile that puts a run's ranks, one a device, on Tofu in the mesh's order.

    Args:
        config: the run.
        path: the file to write.
        job: the nodes as PJM is asked for them, `48x6x48:torus`; those of `mesh.shape` if empty.

    Returns:
        `path`.

    Raises:
        InputError: there is no such job, the run does not fit it, `mesh.shape` is another torus,
            or the path cannot be written.
    """
    if not (job or config.mesh.shape):
        raise InputError("--job and mesh.shape are empty; give one, as in 48x6x48:torus.")
    asked = parse_shape(job or config.mesh.shape)
    torus = fold(asked)
    mesh = config.mesh if config.mesh.shape else replace(config.mesh, shape=str(asked))
    devices = _fewest_devices(mesh)
    make_layout(replace(config, mesh=mesh), devices)  # says what does not fit
    shape = _shape(assign_axes(mesh, devices))
    if shape != torus.shape:
        raise InputError(
            f"job {asked} folds to {_times(torus.shape)}, but mesh.shape {mesh.shape} is "
            f"{_times(shape)}; give the job that the mesh was made for."
        )
    # Splitting axes moves no device, so the mesh counts its nodes as the torus does.
    nodes = np.repeat(np.arange(torus.nodes), mesh.local)
    rank_map = RankMap.from_torus(asked, torus.coordinates(nodes), mesh.local)
    try:
        write_vcoordfile(rank_map, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def _ranges(runs: Int[np.ndarray, "C N"]) -> str:
    """The layers of a stage, whose runs end in empty slots, negative ones."""
    ends = ((run[0], run.max()) for run in runs)
    return ", ".join(f"{first}–{last}" if first < last else f"{first}" for first, last in ends)


def _shape(assignment: Assignment) -> tuple[int, ...]:
    return tuple(
        math.prod(part.size for part in assignment.parts if part.name[0] == axis) for axis in AXES
    )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _shard_bytes(tree: PyTree[jax.ShapeDtypeStruct]) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _fewest_devices(mesh: MeshConfig) -> int:
    if mesh.shape:
        return math.prod(torus_shape(mesh.shape)) * mesh.local
    tensor = max(mesh.tensor, mesh.local)  # of -1 the least that has the devices of a node
    return tensor * math.prod(max(n, 1) for n in (mesh.data, mesh.context, mesh.pipeline))
