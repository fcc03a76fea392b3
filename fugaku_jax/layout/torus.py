"""The torus that `mesh.shape` names: how long its sides are, and which device is where on it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fugaku_jax.config import MeshConfig
from fugaku_jax.tofu.allocation import RankMap, fold, parse_shape, read_vcoordfile
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
    job, ranks = parse_shape(config.shape), _ranks(config, rank_map, max(processes) + 1)
    node = fold(job).numbers(ranks.torus_coordinates())
    return sorted(range(len(processes)), key=lambda d: (node[processes[d]], processes[d], d))


def torus_places(config: MeshConfig, processes: int, rank_map: Path | None) -> list[str]:
    """Say where in the torus the node of each process is: `x0 y5 z23 a1 b2 c0`.

    Args:
        config: of the mesh.
        processes: how many there are.
        rank_map: as of `torus_order`; without one, processes are taken to stand in the mesh's own
            order.

    Returns:
        the place of each process; nothing if `mesh.shape` names no torus.

    Raises:
        InputError: as `torus_order`.
    """
    if not config.shape:
        return []
    if rank_map:
        coordinates = _ranks(config, rank_map, processes).torus_coordinates()
    else:
        shape = torus_shape(config.shape)
        nodes = np.arange(processes) * math.prod(shape) // processes
        coordinates = np.stack(np.unravel_index(nodes, shape), axis=-1)
    return [
        " ".join(f"{axis}{at}" for axis, at in zip(AXES, place, strict=True))
        for place in coordinates.tolist()
    ]


def _ranks(config: MeshConfig, rank_map: Path, processes: int) -> RankMap:
    job = parse_shape(config.shape)
    return read_vcoordfile(rank_map, job, max(processes // job.nodes, 1))
