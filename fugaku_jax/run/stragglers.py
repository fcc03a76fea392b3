"""Which processes of a run's last session were slow, as `stragglers.json` in its directory says."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import typed
from fugaku_jax.run.whole_file import write_json

STRAGGLERS_FILE = "stragglers.json"


@dataclass(frozen=True)
class Pace:
    """How fast a process was by itself, as the median of all comparisons tells."""

    rank: str
    """Which it was, and where: `rank 3 (node004)`."""
    probe_seconds: float
    """Time of a product of its own, always the same."""
    data_share: float
    """Share of the time for which it waited for data."""
    is_slow: bool
    """Whether one of the two is far beyond that of the median process."""


@dataclass(frozen=True)
class Stragglers:
    """What the comparisons of a session found."""

    comparisons: int
    """How many there were."""
    probe_seconds: float
    """That of the median process."""
    data_share: float
    """That of the median process."""
    slowest: tuple[Pace, ...]
    """The slowest few, slow or not."""

    def warnings(self) -> Iterator[str]:
        """Yield a sentence about each process that was slow."""
        for pace in self.slowest:
            if pace.is_slow:
                times = pace.probe_seconds / self.probe_seconds
                yield (
                    f"warning: {pace.rank} was slow: in {self.comparisons} comparisons a product "
                    f"of its own took {times:.2f} times what the median process needed, and it "
                    f"waited for data {pace.data_share:.0%} of the time ({self.data_share:.0%})"
                )


def record_stragglers(run_dir: Path, found: Stragglers) -> None:
    """Write down what was found."""
    write_json(run_dir / STRAGGLERS_FILE, dataclasses.asdict(found))


def slow_processes(run_dir: Path) -> list[str]:
    """Name the processes that were slow in the last session that compared them.

    Raises:
        InputError: the file cannot be read as what this version writes.
    """
    path = run_dir / STRAGGLERS_FILE
    if not path.exists():
        return []
    found = typed(Stragglers, read_json(path), str(path))
    return [pace.rank for pace in found.slowest if pace.is_slow]
