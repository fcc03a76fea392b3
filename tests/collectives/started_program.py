"""Start sums and be done with them later, on six ranks in this process: run by the test beside it.

Each rank's program waits for the others', so none may wait for a thread that another holds: they
run in threads of ours.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from native_ranks import Ranks

from fugaku_jax.collectives import torus
from fugaku_jax.collectives.started import done, nothing, start_all_reduce

AXES = ("x", "y")
DTYPES = ("float32", "bfloat16", "int32")


def on_all(ranks, program, *inputs):
    """What a program of links and this rank's arrays gives on each rank, all at the same time."""

    def one(rank):
        jitted = jax.jit(lambda *own: program(ranks.links[rank], *own))
        return jax.block_until_ready(jitted(*(jnp.asarray(x[rank]) for x in inputs)))

    return [each.result(60) for each in [ranks.pool.submit(one, rank) for rank in range(6)]]


def bits():
    """Hold what is started to a call that waits."""
    for dtype in DTYPES:
        bits_of(dtype)


def bits_of(dtype):
    """Do so with arrays of a type."""
    generator = np.random.default_rng(0)
    shapes = (5, 7000), (3,)
    inputs = [
        [jnp.asarray(generator.integers(-99, 99, shape) / 7, dtype) for _ in range(6)]
        for shape in shapes
    ]

    def program(links, *arrays):
        together = jnp.concatenate([x.reshape(-1) for x in arrays])
        started = start_all_reduce(links, arrays, AXES)
        return torus.all_reduce(links, together, AXES), done(started, started)

    with Ranks(x=2, y=3) as ranks:
        for waited, found in on_all(ranks, program, *inputs):
            assert [x.shape for x in found] == list(shapes)
            together = np.concatenate([np.asarray(x).reshape(-1) for x in found])
            np.testing.assert_array_equal(together, np.asarray(waited))


def loop():
    """Start a sum in each turn before it is done with the one before."""
    turns, size = 20, 3000
    generator = np.random.default_rng(0)
    inputs = [generator.integers(0, 1000, size).astype(np.float32) for _ in range(6)]

    def program(links, x):
        def turn(i, carry):
            found, before = carry
            started = start_all_reduce(links, [x + i], AXES)
            (y,) = done(before, started)
            return found.at[i].set(y), started

        like = jax.eval_shape(lambda: start_all_reduce(links, [x], AXES))
        empty = jnp.zeros((turns, size))
        found, last = jax.lax.fori_loop(0, turns, turn, (empty, nothing(like)))
        return found, done(last, last)[0]

    with Ranks(x=2, y=3) as ranks:
        for found, last in on_all(ranks, program, inputs):
            assert (found[0] == 0).all()
            total = np.sum(inputs, 0)  # of whole numbers, so without rounding
            for i in range(1, turns):
                np.testing.assert_array_equal(found[i], total + 6 * (i - 1))
            np.testing.assert_array_equal(last, total + 6 * (turns - 1))


def die():
    """End a rank before it begins, and ask the others, who did, for their results."""
    with Ranks(x=2, y=3) as ranks:

        def one(rank):
            jitted = jax.jit(lambda x: start_all_reduce(ranks.links[rank], [x], AXES))
            started = jax.block_until_ready(jitted(jnp.ones(1000)))
            try:
                jax.block_until_ready(jax.jit(lambda s: done(s, s))(started))
            except jax.errors.JaxRuntimeError as error:
                return str(error)
            return "a sum"

        waiting = [ranks.pool.submit(one, rank) for rank in range(6) if rank != 4]
        ranks.links[4].close()
        for each in waiting:
            assert "rank 4" in each.result(60)


if __name__ == "__main__":
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    {"bits": bits, "loop": loop, "die": die}[sys.argv[1]]()
    print("as it should be")
