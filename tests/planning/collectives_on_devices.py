"""Compile a program of known collectives for 12 emulated devices, and print its text.

Run by `test_compiled_collectives.py`: `python collectives_on_devices.py OUT.txt`.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P


def program(x: Array) -> Array:
    """Take sums in loops of 5 and of 5 x 4 rounds, others once or not at all, and others once."""

    def inner(_: Array, x: Array) -> Array:
        return x + jax.lax.psum(x, "y")

    def outer(_: Array, x: Array) -> Array:
        return jax.lax.fori_loop(0, 4, inner, jax.lax.psum(x, ("x", "z")))

    def once(state: tuple[Array, Array]) -> tuple[Array, Array]:
        todo, x = jax.lax.optimization_barrier(state)
        gathered = jax.lax.all_gather(x, "y", tiled=True)[:4]
        scattered = jax.lax.psum_scatter(jnp.tile(x, (6, 1)), ("x", "y"), tiled=True)
        return todo & False, gathered + scattered

    x = jax.lax.fori_loop(0, 5, outer, x)
    x = jax.lax.while_loop(lambda state: state[0], once, (jnp.sum(x) > 0, x))[1]
    x = jax.lax.ppermute(x, "x", [(0, 1), (1, 0)])
    x = jax.lax.psum(x, "z", axis_index_groups=[[0], [1]])
    return jax.lax.psum(x, ("x", "y", "z"))


def main() -> None:
    """Compile and write."""
    mesh = jax.make_mesh((2, 3, 2), ("x", "y", "z"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        mapped = jax.shard_map(program, in_specs=P(), out_specs=P(), check_vma=False)
        text = jax.jit(mapped).lower(jnp.ones((4, 6))).compile().as_text()
    Path(sys.argv[1]).write_text(text or "")


if __name__ == "__main__":
    main()
