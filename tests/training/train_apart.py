"""A program of `launch/` in processes that make no collective of all by JAX's own utilities.

Run in the place of it, whose name comes first: `train_apart.py train.py tiny …`. What JAX, Orbax or
this package would have all processes compute together, in a group that joins each with every other,
is an error here.
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from jax.experimental import multihost_utils

LAUNCH = Path(__file__).parents[2] / "launch"
OF_ALL = ("process_allgather", "broadcast_one_to_all", "sync_global_devices", "assert_equal")


def refusal(name: str) -> Callable[..., NoReturn]:
    """Return what takes a function's place."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError(f"{name} makes a group of all processes")

    return refuse


if __name__ == "__main__":
    for name in OF_ALL:
        assert hasattr(multihost_utils, name)
        setattr(multihost_utils, name, refusal(name))
    sys.path.insert(0, str(LAUNCH))
    program = LAUNCH / sys.argv.pop(1)
    runpy.run_path(str(program), run_name="__main__")
