"""What of a run is safe when it cannot go on."""

from pathlib import Path
from types import TracebackType

from fugaku_jax.errors import RunError


class SafeState:
    """Knows the last checkpoint; a context manager for what the operating system refuses a run.

    Within it, an error of the system (a full disk, a directory that is gone) becomes a sentence
    that says what is safe.

    Attributes:
        step: of the last checkpoint; None if there is none.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.step: int | None = None

    def __str__(self) -> str:
        if self.step is None:
            return "there is no checkpoint yet"
        return f"the checkpoint of step {self.step} is kept"

    def __enter__(self) -> "SafeState":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            if not self.run_dir.exists():
                raise RunError(f"{self.run_dir} is gone, and the run with it.") from error
            reason = error.strerror or str(error)
            where = f" ({error.filename})" if error.filename else ""
            raise RunError(
                f"The run in {self.run_dir} cannot go on: {reason}{where}; {self}."
            ) from error
