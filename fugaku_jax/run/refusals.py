"""What the operating system refuses a run, said in a sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fugaku_jax.errors import RunError
from fugaku_jax.run.checkpoint_folder import what_is_safe


@contextlib.contextmanager
def refusals(run_dir: Path) -> Iterator[None]:
    """Turn an error of the system (a full disk, a directory that is gone) into what is safe.

    Raises:
        RunError: in the place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        if not run_dir.exists():
            raise RunError(f"{run_dir} is gone, and the run with it.") from error
        reason = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        raise RunError(
            f"The run in {run_dir} cannot go on: {reason}{where}; {what_is_safe(run_dir)}."
        ) from error
