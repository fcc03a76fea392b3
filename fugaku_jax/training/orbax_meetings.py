"""How Orbax has processes wait for each other: by the coordination service, as this package does.

Left alone, Orbax 0.12 makes collectives of all processes while it saves, for which gloo connects
each with every other: at its barriers, for which it has a flag, and to compare the paths that the
processes save to, for which it has nothing. Processes that joined by `cluster.hosts` have one
configuration and one directory, so that comparison is left out. That is not public; the project
asks for the minor version that it was tested with, and a test trains and saves where such
collectives are errors.
"""

import jax
from absl import flags
from orbax.checkpoint.experimental.v1._src.saving import execution


def meet_by_service() -> None:
    """Have Orbax's processes meet so from now on."""
    if jax.process_count() == 1:
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["fugaku_jax"])
    flags.FLAGS.experimental_orbax_use_distributed_barrier = True
    execution._check_directory_consistency = lambda directory: None  # noqa: ARG005
