"""The torus that `mesh.shape` names: how long its sides are, and which device is where on it."""

from collections.abc import Sequence
from pathlib import Path

from fugaku_jax.config import MeshConfig
from fugaku_jax.tofu.allocation import fold, parse_shape, read_vcoordfile
from fugaku_jax.tofu.topology import AXES


def torus_shape(text: str) -> tuple[int, ...]:
    """Read `mesh.shape`: six sizes, or a job's one to three, which are folded.

    Raises:
        InputError: it is neither, or it does not fold.
    """
    sizes = text.split("x")
    if len(sizes) == len(AXES) and all(size.isdigit() and int(size) for size in sizes):
        return tuple(map(int, sizes))
    return fold(parse_shape(text)).shape


def torus_order(processes: Sequence[int], config: MeshConfig, rank_map: Path) -> list[int]:
    """Order devices by the Tofu coordinates of their processes.

    Args:
        processes: that of each device.
        config: of the mesh.
        rank_map: a vcoordfile, whose line r has the logical coordinate of process r.

    Returns:
        the numbers of the devices, in row-major order of the torus.

    Raises:
        InputError: `mesh.shape` is not a job's, or the file does not fit it.
    """
    job = parse_shape(config.shape)
    per_node = max((max(processes) + 1) // job.nodes, 1)
    ranks = read_vcoordfile(rank_map, job, per_node)
    node = fold(job).numbers(ranks.torus_coordinates())
    return sorted(range(len(processes)), key=lambda d: (node[processes[d]], processes[d], d))
