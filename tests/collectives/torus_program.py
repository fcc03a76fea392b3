"""Sum over a torus of processes, by our own collectives and by XLA's: run by the test beside it.

Prints `equal N` for N rounds in which both agreed; or, for other deeds, what went wrong.
"""

import os
import signal
import sys
import time

import numpy as np

from fugaku_jax.cluster.hosts import agree, find_hosts, join, leave

MESH = {"x": 2, "y": 2}
DTYPES = ("float32", "bfloat16", "float16", "int32")


def main(deed: str, rounds: str = "0") -> int:
    """Do what all ranks do; rank 2 comes late, differs or dies."""
    join(find_hosts(os.environ))
    import jax
    from jax.sharding import AxisType

    from fugaku_jax.collectives.connections import connect

    mesh = jax.make_mesh(
        tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Explicit,) * len(MESH)
    )
    links = connect(mesh)
    assert links is not None
    assert connect(mesh) is links
    mine = jax.process_index() == 2
    with jax.set_mesh(mesh):
        if deed == "rounds":
            print(f"equal {compare(links, int(rounds))}", flush=True)
            return 0
        add(links, 1000)
        if mine and deed == "late":
            time.sleep(3)
        if mine and deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            total = add(links, 2000 if mine and deed == "differ" else 1000)
            print(f"sum {total}", flush=True)
        except jax.errors.JaxRuntimeError as error:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            time.sleep(1)  # what killed rank 0 must not keep the others from saying so
            return 1
    return 0


def add(links, length: int) -> float:
    """Add up ones, of which each process may bring another number."""
    import jax
    import jax.numpy as jnp

    from fugaku_jax.collectives import torus

    def body():
        return torus.all_reduce(links, jnp.ones(length), tuple(MESH))

    spec = jax.sharding.PartitionSpec()
    total = jax.jit(jax.shard_map(body, in_specs=(), out_specs=spec, check_vma=False))()
    return float(np.asarray(total.addressable_shards[0].data)[0])


def compare(links, rounds: int) -> int:
    """Hold random calls to XLA's, and their bits to each other."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from fugaku_jax.collectives import started, sums, torus

    generator = np.random.default_rng(0)
    everywhere = PartitionSpec(tuple(MESH))
    for number in range(rounds):
        dtype = DTYPES[generator.integers(len(DTYPES))]
        axes = [("x", "y"), ("y", "x"), ("x",), ("y",)][generator.integers(4)]
        shape = tuple(4 * generator.integers(1, 40, generator.integers(1, 3)))
        placed = tuple((axis, int(generator.integers(len(shape)))) for axis in axes)
        values = generator.uniform(1, 100, (4, *shape)).astype(jnp.dtype(dtype))
        x = jax.device_put(values, everywhere)

        def body(x, axes=axes, placed=placed):
            x = x.reshape(x.shape[1:])
            ours = torus.all_reduce(links, x, axes)
            part = torus.reduce_scatter(links, x, placed)
            begun = started.start_reduce_scatter(links, [x, x], [placed, placed])
            pair = started.done(begun, begun)
            found = {
                "started": (pair[1], sums.reduce_scatter(x, placed)),
                "sum": (ours, sums.all_reduce(x, axes)),
                "part": (part, sums.reduce_scatter(x, placed)),
                "whole": (torus.all_gather(links, part, placed), sums.all_gather(part, placed)),
                "bits": (ours, jax.lax.all_gather(ours, axes)),
            }
            return jax.tree.map(lambda x: x[None], found)

        mapped = jax.shard_map(body, in_specs=everywhere, out_specs=everywhere, check_vma=False)
        compiled = jax.jit(mapped).lower(x).compile()
        # Who compiles on a busy machine may be late, and gloo waits for 30 s only.
        agree(find_hosts(os.environ), f"round {number}", {})
        found = jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], compiled(x))
        # Four summands of one sign in another order; what is narrow was rounded once, from fp32.
        rtol = {"float32": 1e-6, "bfloat16": 2**-7, "float16": 2**-10, "int32": 0}[dtype]
        for name in ("sum", "part", "started"):
            ours, theirs = (each.astype(np.float64) for each in found[name])
            np.testing.assert_allclose(ours, theirs, rtol, err_msg=f"{number} {name}")
        np.testing.assert_array_equal(*found["whole"])
        own, all_ = found["bits"]
        np.testing.assert_array_equal(all_.reshape(-1, *own.shape), np.stack([own] * len(all_)))
        if (number + 1) % 50 == 0:
            print(f"{number + 1} so far", flush=True)
    return rounds


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
