"""Sum and gather over meshes of 24 and of 56 emulated devices in every way, and save all of it.

Run by `test_collectives.py`, since the number of emulated devices is fixed when JAX starts.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, PartitionSpec

from fugaku_jax.collectives.sums import all_gather, all_reduce, reduce_scatter

COLLECTIVES = r" (all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute)\("


@dataclass(frozen=True)
class Case:
    """An array that is summed over some axes of a mesh."""

    mesh: dict[str, int]
    shape: tuple[int, ...]
    placed: tuple[tuple[str, int], ...]
    """The axes summed over, and the dimensions on which the shards of the sum are placed."""
    spec: tuple[str | tuple[str, ...] | None, ...] = ()
    """How other axes split the array."""
    others_manual: bool = False
    """Whether the axes not summed over are manual too, not Explicit."""
    divisible: bool = True
    """Whether the sum can be split into shards."""
    dtype: str = "float32"
    check_vma: bool = False

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes summed over."""
        return tuple(axis for axis, _ in self.placed)

    @property
    def summands(self) -> int:
        """How many devices are summed over."""
        return math.prod(self.mesh[axis] for axis in self.axes)


CASES = {
    "two and three": Case(
        {"x": 2, "y": 3, "z": 1, "a": 2, "k": 2},
        (6, 4, 3),
        (("x", 0), ("y", 0), ("z", 0)),
        (None, ("a", "k")),
    ),
    "three axes": Case(
        {"x": 2, "y": 2, "z": 3, "k": 2},
        (4, 3, 4),
        (("x", 0), ("z", 1), ("y", 0)),
        (None, None, "k"),
    ),
    "bf16, more local devices than axes": Case(
        {"x": 3, "k": 8}, (6, 8), (("x", 0),), (None, "k"), dtype="bfloat16"
    ),
    "a longer axis is factored": Case(
        {"y": 2, "x": 4, "k": 3}, (16, 3), (("x", 0), ("y", 0)), (None, "k")
    ),
    "not in the mesh's order, on the last dimension": Case(
        {"x": 2, "y": 2, "z": 2, "k": 3},
        (3, 1, 24),
        (("z", 2), ("x", 2), ("y", 2)),
        ("k",),
    ),
    "local devices sum the same": Case(
        {"x": 2, "y": 2, "b": 3, "k": 2}, (4, 6), (("x", 0), ("y", 1))
    ),
    "all axes manual": Case(
        {"x": 2, "y": 2, "a": 3, "k": 2},
        (24, 6),
        (("x", 0), ("y", 0)),
        (("a", "k"),),
        others_manual=True,
    ),
    "odd sizes": Case(
        {"x": 2, "y": 2, "z": 3, "k": 2},
        (5, 7),
        (("x", 0), ("y", 0), ("z", 0)),
        divisible=False,
    ),
    "a number": Case({"x": 3, "y": 4, "k": 2}, (), (("x", 0), ("y", 0)), divisible=False),
    "fp16, no local axis": Case({"x": 4, "y": 6}, (2, 24), (("x", 1), ("y", 1)), dtype="float16"),
    "int32, no local axis": Case({"x": 4, "y": 6}, (24, 2), (("y", 0), ("x", 0)), dtype="int32"),
    "an axis longer than a group may be": Case({"x": 56}, (3, 112), (("x", 1),)),
    "a number along such an axis": Case({"x": 56}, (), (("x", 0),), divisible=False),
    "checked types": Case(
        {"x": 2, "y": 2, "a": 3, "k": 2},
        (8, 6),
        (("x", 0), ("y", 0)),
        (None, "a"),
        check_vma=True,
    ),
}

REFUSED: dict[str, Callable[[Array], Array]] = {
    "Axis a is not manual": lambda x: all_reduce(x, ("x", "a")),
    "Axis q is not manual": lambda x: all_reduce(x, ("x", "q")),
    "Axes ('x', 'x'): each may appear only once": lambda x: all_reduce(x, ("x", "x")),
    "dimension 0 of (4, 6) is not divisible by 6": lambda x: reduce_scatter(
        x, (("x", 0), ("y", 0))
    ),
    "dimension 2 of (4, 6)": lambda x: reduce_scatter(x, (("x", 2),)),
    "dimension -1 of (4, 6)": lambda x: all_gather(x, (("x", -1),)),
    "Explicit a splits too": lambda x: all_gather(
        jax.reshard(x, PartitionSpec(None, "a")), (("x", 1),)
    ),
}
"""What each use of an array `[4, 6]` on the mesh of "two and three" is to be told."""


def summands(case: Case) -> np.ndarray:
    """Return the array of each device that is summed over, stacked in the order of the axes."""
    values = np.random.default_rng(0).uniform(1, 100, (case.summands, *case.shape))
    return values.astype(jnp.dtype(case.dtype))


def mapped(case: Case, function: Callable, out: PartitionSpec) -> Callable:
    """Map a function of a device's summand over the mesh."""
    manual = set(case.mesh) if case.others_manual else set(case.axes)
    inner = case.spec if case.others_manual else ()
    return jax.shard_map(
        lambda x: function(x.reshape(x.shape[1:])),
        in_specs=PartitionSpec(case.axes, *inner),
        out_specs=out,
        axis_names=manual,
        check_vma=case.check_vma,
    )


def compute(case: Case) -> dict[str, Array]:
    """Compute everything of a case on the mesh that is active."""
    inner = case.spec if case.others_manual else ()
    copies = PartitionSpec(case.axes, *inner)
    split: list[tuple[str, ...]] = [() for _ in case.shape]
    for dimension, axes in enumerate(inner):
        split[dimension] = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    for axis, dimension in case.placed if case.divisible else ():
        split[dimension] += (axis,)
    shards = PartitionSpec(*(axes or None for axes in split))

    def body(x: Array) -> dict[str, Array]:
        found = {"reduced": all_reduce(x, case.axes)[None]}
        if case.divisible:
            shard = reduce_scatter(x, case.placed)
            found["scattered"] = shard
            found["gathered"] = all_gather(shard, case.placed)[None]
        return found

    x = jax.device_put(summands(case), PartitionSpec(case.axes, *case.spec))
    out = {"reduced": copies}
    if case.divisible:
        out |= {"scattered": shards, "gathered": copies}

    def oracle(x: Array) -> Array:
        exact = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
        return jax.lax.psum(exact, case.axes).astype(x.dtype)[None]

    @jax.jit
    def everything(x: Array) -> dict[str, Array]:
        found = {"psum": mapped(case, oracle, copies)(x)}
        return found | mapped(case, body, out)(x)

    return everything(x)


def count_collectives(case: Case) -> Counter[str]:
    """Count the collectives in the program of a sum, in which other axes are Explicit."""

    def reduce(x: Array) -> Array:
        return all_reduce(x, case.axes)[None]

    # At the edge of a map that is manual over some axes only, JAX gathers over Explicit axes
    # (its specs may not name them), but not over Auto ones.
    others = tuple(set(case.mesh) - set(case.axes))
    inside = jax.sharding.explicit_axes(reduce, axes=others, in_sharding=PartitionSpec(*case.spec))
    whole = PartitionSpec(case.axes, *case.spec)
    outside = jax.sharding.auto_axes(
        mapped(case, inside, PartitionSpec(case.axes)), axes=others, out_sharding=whole
    )
    x = jax.device_put(summands(case), whole)
    return Counter(re.findall(COLLECTIVES, jax.jit(outside).lower(x).compile().as_text()))


def refusal(function: Callable[[Array], Array]) -> str:
    """Return what a function that is mapped over x, y and z is told."""
    mapped = jax.shard_map(
        function, in_specs=PartitionSpec(), out_specs=PartitionSpec(), axis_names={"x", "y", "z"}
    )
    try:
        jax.eval_shape(mapped, jnp.zeros((4, 6)))
    except ValueError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """Save everything under `case/...`."""
    saved = {}
    for name, case in CASES.items():
        types = (AxisType.Explicit,) * len(case.mesh)
        mesh = jax.make_mesh(tuple(case.mesh.values()), tuple(case.mesh), axis_types=types)
        with jax.set_mesh(mesh):
            for key, value in compute(case).items():
                # NumPy's files know no bf16; every value of it is one of fp32.
                saved[f"{name}/{key}"] = np.asarray(value.astype(jnp.float32))
                saved[f"{name}/{key}/dtype"] = value.dtype.name
            if name == "two and three":
                for kind, count in count_collectives(case).items():
                    saved[f"count/{kind}"] = count
                for message, function in REFUSED.items():
                    saved[f"refused/{message}"] = refusal(function)
    np.savez(sys.argv[1], **saved)


if __name__ == "__main__":
    main()
