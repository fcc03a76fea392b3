"""Test two processes, then again with one that computes wrongly: run by test_self_test.py."""

import os

from fugaku_jax.cluster.hosts import find_hosts, join, leave
from fugaku_jax.errors import RunError


def main() -> None:
    """Print what is said of both tests."""
    watchdog = join(find_hosts(os.environ))
    import jax

    from fugaku_jax.training.probe import multiply
    from fugaku_jax.training.self_test import self_test

    watchdog.names.places = {1: "x1 y0 z0 a0 b0 c0"}
    mesh = jax.make_mesh((2, jax.local_device_count()), ("x", "y"))
    for line in self_test(mesh, watchdog.names):
        print(line, flush=True)

    def one_wrong(x, y):
        return multiply(x, y).at[7, 9].add(1.0)

    try:
        self_test(mesh, watchdog.names, one_wrong if jax.process_index() == 1 else multiply)
    except RunError as error:
        print(error, flush=True)


if __name__ == "__main__":
    main()
    leave(0)
