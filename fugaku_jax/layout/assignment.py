"""What the axes of a mesh carry, and how many devices each kind of parallelism has.

On a torus the axes are given to the kinds by `search`; elsewhere each kind gets axes of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fugaku_jax.errors import InputError
from fugaku_jax.layout.factors import KINDS, nearest
from fugaku_jax.tofu.topology import AXES


@dataclass(frozen=True)
class Part:
    """A mesh axis, or one part of a split one."""

    name: str
    """`x`, or when split `x0` (the outermost part), `x1`, ..."""
    size: int
    """Devices along it."""
    kind: str
    """What it carries: one of `KINDS`."""


@dataclass(frozen=True)
class Assignment:
    """What every mesh axis carries."""

    parts: tuple[Part, ...]
    """In the order of the axes, x to c; those of a split axis from outer to inner. An axis of
    length 1 is one part, of the kind data."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts, which are the axes of the mesh."""
        return tuple(part.name for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the parts: in row-major order a device keeps its place whatever is split."""
        return tuple(part.size for part in self.parts)

    def axes(self, kind: str) -> tuple[str, ...]:
        """Names of the parts that carry a kind, from outer to inner."""
        return tuple(part.name for part in self.parts if part.kind == kind)


def degrees(
    devices: int, data: int = -1, tensor: int = 1, pipeline: int = 1, context: int = 1
) -> dict[str, int]:
    """How many ways each kind divides the devices, with -1 filled in.

    Args:
        devices: devices of the mesh.
        data: replicas; any one of the four may be -1, which takes what the others leave.
        tensor: shards of a layer.
        pipeline: stages.
        context: shards of the sequence.

    Returns:
        Kind -> degree, in the order of `KINDS`; their product is `devices`.

    Raises:
        InputError: a degree is neither -1 nor at least 1, two are -1, or the product is not
            (or, where one is -1, does not divide) the number of devices.
    """
    given = {"tensor": tensor, "context": context, "data": data, "pipeline": pipeline}
    known = {kind: degree for kind, degree in given.items() if degree != -1}
    filled = [f"mesh.{kind}" for kind in KINDS if kind not in known]
    if len(filled) > 1:
        raise InputError(
            f"{' and '.join(filled)} are -1, but only one can take what the others leave of the "
            f"devices; give the rest numbers."
        )
    check_product(known, devices, "the number of devices")
    rest = devices // math.prod(known.values())
    return {kind: known.get(kind, rest) for kind in KINDS}


def without_torus(degrees: Mapping[str, int]) -> Assignment:
    """Give each kind of parallelism axes of its own, on a machine that is no torus.

    Tensor parallelism gets a, b and c, whose devices follow each other in rank order and so share
    hosts: a factor 3 on b and, if 4 divides the rest, a factor 2 on c, as in a unit of Tofu-D (6
    is 2x3x1, 12 is 2x3x2). Pipeline, data and context lie in this order on x, y and z, from the
    first on and leaving out a degree of 1: with data alone x has all replicas.

    Args:
        degrees: kind -> degree, at least 1.
    """
    rest = degrees["tensor"]
    b = 3 if rest % 3 == 0 else 1
    rest //= b
    c = 2 if rest % 4 == 0 else 1
    outer = [(kind, degrees[kind]) for kind in ("pipeline", "data", "context") if degrees[kind] > 1]
    outer += [("data", 1)] * (3 - len(outer))
    inner = [("tensor" if size > 1 else "data", size) for size in (rest // c, b, c)]
    carried = zip(AXES, outer + inner, strict=True)
    return Assignment(tuple(Part(name, size, kind) for name, (kind, size) in carried))


def check_product(known: Mapping[str, int], devices: int, whose: str) -> None:
    """Refuse degrees that do not multiply to the devices or, with one left out, divide them.

    Args:
        known: kind -> degree.
        devices: how many there are.
        whose: what that is the number of, as the refusal says it.

    Raises:
        InputError: names the nearest degrees that would do.
    """
    for kind, degree in known.items():
        if degree < 1:
            raise InputError(
                f"mesh.{kind} is {degree}, but it must be at least 1; a single one of the degrees "
                f"may be given as -1 and takes what the others leave of the devices."
            )
    product, complete = math.prod(known.values()), len(known) == len(KINDS)
    if product == devices or (not complete and devices % product == 0):
        return
    fault = f"but it must be {devices}" if complete else f"which does not divide {devices}"
    raise InputError(
        f"{' x '.join(f'mesh.{kind} {degree}' for kind, degree in known.items())} is {product}, "
        f"{fault}, {whose}; nearest that would do: "
        f"{', '.join(f'mesh.{kind} {degree}' for kind, degree in nearest(known, devices).items())}."
    )
