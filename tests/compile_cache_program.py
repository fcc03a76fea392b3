"""Compile a sum over two processes; run by test_compile_cache.py."""

import os
import sys
from pathlib import Path

from fugaku_jax.cluster.hosts import find_hosts, join, leave
from fugaku_jax.compile_cache import use_compile_cache


def main() -> None:
    """Write how many of the programs that both ranks run were found, in a file for each rank."""
    join(find_hosts(os.environ))
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    use_compile_cache()
    mesh = jax.make_mesh((2,), ("data",))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    ones = jax.make_array_from_callback((2, 8), spread, lambda _: jnp.ones((1, 8)))
    found = []
    jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
    print(float(jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(ones)))
    hits = sum(name.endswith("cache_hits") for name in found)
    Path(sys.argv[1], f"rank-{jax.process_index()}").write_text(str(hits))


if __name__ == "__main__":
    main()
    leave(0)
