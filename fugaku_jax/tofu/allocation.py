"""A job's nodes in the torus: the shape asked of PJM, its fold onto six axes, and the rank map.

A user asks for, and Fujitsu MPI speaks of, a logical shape of one to three dimensions such as
48x6x48; the machine has six axes. **The fold** lays the first dimension on X·A, the second on Y·B,
the third on Z·C: 48x6x48 becomes x y z a b c = 24 2 24 2 3 2. A dimension runs as a snake through
the grid of its two axes: along the outer axis at unit coordinate 0, then back, sweeping the other
unit coordinates to and fro. For the first dimension of 48:

    position   0  1 … 23 24 … 47        for the second of 6:   position  0  1  2  3  4  5
    x          0  1 … 23 23 …  0                               y         0  1  1  1  0  0
    a          0  0 …  0  1 …  1                               b         0  0  1  2  2  1

So logical neighbours are one hop apart, and the snake's ends too: every logical dimension is a ring
although a part of the machine's x, y or z is none. That is what Tofu's small axes are for.

RIKEN's lattice QCD lays its rings on Y·B in the same way, and counts on a ring along x or z only
where a job spans all 24 (github.com/RIKEN-LQCD/qws, get_tofu_coord_openY.c).

Fujitsu has not published how PJM itself folds. A running job can ask (FJMPI_Topology_get_coords
with FJMPI_TOFU_REL); logical neighbours are physical neighbours under either fold, while neighbours
along a single Tofu axis are so only if the folds agree.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int64

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.topology import AXES, FUGAKU, UNIT_SHAPE, Torus

LARGEST_MESH = 384
"""Nodes up to which a job need not be a torus, nor take whole units."""

LARGEST_JOB = 82_944
"""Nodes of the largest job that Fugaku takes."""

_SHAPE = re.compile(
    r"([0-9]{1,6}(?:x[0-9]{1,6}){0,2})(?::(torus|mesh|noncont))?(?::strict(?:-io)?)?"
)
_COORDINATE = re.compile(r"\( *[0-9]{1,6}(?: *, *[0-9]{1,6}){0,2} *\)")


@dataclass(frozen=True)
class JobShape:
    """The nodes that a job asks of PJM.

    Raises:
        InputError: not one to three sizes of at least 1, more nodes than a job may have, or more
            than 384 without being a torus.
    """

    shape: tuple[int, ...]
    """Nodes along each logical dimension, one to three of them."""
    torus: bool
    """Whether the logical dimensions are to be rings."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.shape) <= 3 or min(self.shape) < 1:
            raise InputError(f"job {self}: must have one to three sizes, each at least 1.")
        if self.nodes > LARGEST_JOB:
            raise InputError(
                f"job {self}: has {self.nodes:,} nodes, but Fugaku takes at most {LARGEST_JOB:,}."
            )
        if self.nodes > LARGEST_MESH and not self.torus:
            raise InputError(
                f"job {self}: has {self.nodes:,} nodes, and from {LARGEST_MESH + 1} on a job must "
                f"be a torus: write {str(self).removesuffix(':mesh')}:torus."
            )

    def __str__(self) -> str:
        return "x".join(map(str, self.shape)) + (":torus" if self.torus else ":mesh")

    @property
    def nodes(self) -> int:
        """How many nodes the job has."""
        return prod(self.shape)


def parse_shape(text: str) -> JobShape:
    """Read what stands behind `node=` in a PJM script: `12`, `4x6:mesh`, `48x6x48:torus:strict-io`.

    Without a word for the kind, PJM gives a torus from 385 nodes on and loose nodes (`noncont`)
    below. `noncont` reads as no torus; its nodes need not be neighbours. `strict` and `strict-io`
    say who else may use the links, and change nothing here.

    Raises:
        InputError: the text is malformed, or as `JobShape`.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise InputError(
            f"job {text!r}: is no shape that PJM knows; write sizes and a kind as in "
            f"48x6x48:torus:strict-io or 4x6:mesh."
        )
    shape = tuple(map(int, match[1].split("x")))
    kind = match[2] or ("torus" if prod(shape) > LARGEST_MESH else "noncont")
    return JobShape(shape, torus=kind == "torus")


def fold(job: JobShape) -> Torus:
    """The part of Tofu that a job's logical shape folds onto.

    Missing dimensions count as 1. The unit coordinate of a dimension gets its greatest divisor up
    to 2, 3 and 2 nodes, so a job of up to 2x3x2 stays inside a unit and 5 nodes in a row lie along
    x, y or z. b is a ring where it is whole; x, y and z are where a torus job spans all of
    Fugaku's.

    Raises:
        InputError: a job of more than 384 nodes, which takes whole units, has a dimension that 2,
            3 or 2 does not divide; or a dimension is longer than the machine.
    """
    factors = _factors(job)
    shape = tuple(outer for outer, _ in factors) + tuple(inner for _, inner in factors)
    x, y, z = (job.torus and shape[axis] == FUGAKU.shape[axis] for axis in range(3))
    return Torus(shape, wraps=(x, y, z, False, shape[4] == UNIT_SHAPE[1], False))


def fold_coordinates(
    job: JobShape, logical: Int[np.ndarray, "*batch D"]
) -> Int64[np.ndarray, "*batch 6"]:
    """The Tofu coordinates of logical ones, of as many dimensions as the job's shape has.

    Raises:
        InputError: as `fold`, or a coordinate lies outside of the job.
    """
    outside = ((logical < 0) | (logical >= job.shape)).any(axis=-1)
    if outside.any():
        first = tuple(logical[outside][0].tolist())
        raise InputError(f"coordinate {first}: outside of job {job}.")
    folded = np.zeros((*logical.shape[:-1], 6), np.int64)
    for dimension, (outer, inner) in enumerate(_factors(job)[: len(job.shape)]):
        snake = _snake(outer, inner)
        folded[..., [dimension, dimension + 3]] = snake[logical[..., dimension]]
    return folded


def unfold_coordinates(
    job: JobShape, coordinates: Int[np.ndarray, "*batch 6"]
) -> Int64[np.ndarray, "*batch D"]:
    """The logical coordinates of Tofu ones: `fold_coordinates` inverted, with the same errors."""
    fold(job).numbers(coordinates)  # refuses what lies outside
    logical = []
    for dimension, (outer, inner) in enumerate(_factors(job)[: len(job.shape)]):
        position = np.empty((outer, inner), np.int64)
        position[tuple(_snake(outer, inner).T)] = np.arange(outer * inner)
        logical.append(position[coordinates[..., dimension], coordinates[..., dimension + 3]])
    return np.stack(logical, axis=-1)


def _factors(job: JobShape) -> list[tuple[int, int]]:
    """How many nodes of each of the three dimensions lie along its outer and its unit axis."""
    factors = []
    padded = (*job.shape, 1, 1)[:3]
    for axis, size, unit, most in zip(AXES, padded, UNIT_SHAPE, FUGAKU.shape, strict=False):
        if job.nodes > LARGEST_MESH and size % unit:
            near = [each for each in (size // unit * unit, size // unit * unit + unit) if each]
            raise InputError(
                f"job {job}: {size} nodes along {axis} do not fold, because a job of more than "
                f"{LARGEST_MESH} nodes takes whole units, which are {unit} nodes wide there; "
                f"{' or '.join(map(str, near))} would do."
            )
        inner = max(divisor for divisor in range(1, unit + 1) if size % divisor == 0)
        if size // inner > most:
            raise InputError(
                f"job {job}: {size} nodes along {axis} need {size // inner} units in a row, but "
                f"Fugaku has {most}; spread them over more dimensions."
            )
        factors.append((size // inner, inner))
    return factors


def _snake(outer: int, inner: int) -> Int64[np.ndarray, "N 2"]:
    """Outer and unit coordinate of each position: out along column 0, back sweeping the others."""
    out = [(i, 0) for i in range(outer)]
    back = []
    for turn, i in enumerate(reversed(range(outer))):
        columns = range(1, inner) if turn % 2 == 0 else range(inner - 1, 0, -1)
        back += [(i, j) for j in columns]
    return np.array(out + back, np.int64)


@dataclass(frozen=True)
class RankMap:
    """Where each rank of a job sits: Fujitsu MPI's rank map.

    Raises:
        InputError: a coordinate outside of the job or used by more ranks than a node has, or not
            as many ranks as fill the job's nodes.
    """

    job: JobShape
    """The nodes of the job."""
    coordinates: tuple[tuple[int, ...], ...]
    """The logical coordinate of each rank, in the order of ranks."""
    ranks_per_node: int = 1
    """Processes on each node, which share its coordinate."""

    def __post_init__(self) -> None:
        if self.ranks_per_node < 1:
            raise InputError(f"ranks per node is {self.ranks_per_node}; it must be at least 1.")
        for _ in _checked(self.coordinates, self.job, self.ranks_per_node, "rank {}".format):
            pass
        if len(self.coordinates) < self.ranks:
            raise InputError(
                f"rank map of {len(self.coordinates)} ranks: job {self.job} needs {self.ranks}, "
                f"where ranks per node is {self.ranks_per_node}."
            )

    @property
    def ranks(self) -> int:
        """How many ranks the job has."""
        return self.job.nodes * self.ranks_per_node

    @classmethod
    def from_torus(
        cls, job: JobShape, coordinates: Int[np.ndarray, "R 6"], ranks_per_node: int = 1
    ) -> "RankMap":
        """The rank map that puts rank r at the r-th of these Tofu coordinates of `fold(job)`."""
        logical = unfold_coordinates(job, coordinates).tolist()
        return cls(job, tuple(map(tuple, logical)), ranks_per_node)

    def torus_coordinates(self) -> Int64[np.ndarray, "R 6"]:
        """The Tofu coordinate of each rank: `from_torus` inverted."""
        return fold_coordinates(self.job, np.array(self.coordinates))


def write_vcoordfile(rank_map: RankMap, path: Path) -> None:
    """Write a rank map for `mpirun --vcoordfile`: a line `(x,y,z)` a rank, in their order."""
    lines = ("(" + ",".join(map(str, place)) + ")\n" for place in rank_map.coordinates)
    path.write_text("".join(lines), encoding="ascii")


def read_vcoordfile(path: Path, job: JobShape, ranks_per_node: int = 1) -> RankMap:
    """Read a rank map back.

    Raises:
        InputError: the file cannot be read, a line is malformed, lies outside of the job or names
            a node that is full, or the file ends before every node is.
    """

    def where(rank: int) -> str:
        return f"{path}, line {rank + 1}"

    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            parsed = (_parse_coordinate(line, where(rank)) for rank, line in enumerate(lines))
            coordinates = tuple(_checked(parsed, job, ranks_per_node, where))
    except OSError as error:
        raise InputError(f"rank map {path}: cannot be read: {error.strerror}.") from error
    if len(coordinates) < job.nodes * ranks_per_node:
        raise InputError(
            f"{path}: has {len(coordinates)} lines, but job {job} needs "
            f"{job.nodes * ranks_per_node}, one a rank, where ranks per node is {ranks_per_node}."
        )
    return RankMap(job, coordinates, ranks_per_node)


def _parse_coordinate(line: str, where: str) -> tuple[int, ...]:
    text = line.strip()
    if not _COORDINATE.fullmatch(text):
        raise InputError(f"{where}: {text[:40]!r} is no coordinate; write it as (0,1,2).")
    return tuple(map(int, text.strip("()").split(",")))


def _checked(
    coordinates: Iterable[tuple[int, ...]],
    job: JobShape,
    ranks_per_node: int,
    where: Callable[[int], str],
) -> Iterator[tuple[int, ...]]:
    """Pass coordinates on, and stop at the first that a node of the job cannot have."""
    taken = Counter()
    for rank, place in enumerate(coordinates):
        if len(place) != len(job.shape):
            raise InputError(
                f"{where(rank)}: {place} has {len(place)} dimensions, but job {job} "
                f"has {len(job.shape)}."
            )
        if not all(0 <= at < size for at, size in zip(place, job.shape, strict=True)):
            raise InputError(f"{where(rank)}: {place} is outside of job {job}.")
        taken[place] += 1
        if taken[place] > ranks_per_node:
            raise InputError(
                f"{where(rank)}: the node at {place} is full already; "
                f"ranks per node is {ranks_per_node}."
            )
        yield place
