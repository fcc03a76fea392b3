"""The processes of a run: who of them writes."""

import jax


def is_writer() -> bool:
    """Tell whether this process is the one that prints and writes the run's files."""
    return jax.process_index() == 0
