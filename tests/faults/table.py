"""Make `docs/faults.md` of what planted faults led to, or tell whether it says that.

python tests/faults/table.py
"""

import sys
import tempfile
from pathlib import Path

from full_disk import plant_full_disks
from planted import FAULTS, Bench, Seen
from planted_in_processes import plant
from small_config import make_config

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
START, END = "| fault |", "\n\n"


def row(name: str, seen: Seen) -> str:
    """Return a fault's row of the table."""
    lost = "the run" if seen.lost is None else str(seen.lost)
    return f"| {name} | {seen.said or 'nothing'} | {seen.code} | {lost} |"


def rows() -> list[str]:
    """Return the rows that the page has."""
    table = PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    return table.splitlines()[2:]


def main() -> None:
    """Plant all faults and write the page's table."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(make_config(Path(folder)), Path(folder))
        made = [row(name, fault(bench)) for name, fault in FAULTS.items()]
        made += [row(name, seen) for name, (seen, _) in plant_full_disks(bench).items()]
        made += [row(name, seen) for name, seen in plant(bench).items()]
    before, _, behind = PAGE.read_text(encoding="utf-8").partition(START)
    table = [f"{START} seen | exit code | steps lost |", "|---|---|---|---|", *made]
    PAGE.write_text(before + "\n".join(table) + END + behind.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
