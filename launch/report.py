"""Draw a run, or several side by side, as one HTML page that needs no network."""

from pathlib import Path
from typing import Annotated

import tyro
from command import parse, run_program

from fugaku_jax.report.report import write_picture, write_report
from fugaku_jax.report.runs import read_runs

Runs = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN …]")]]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


def report(runs: Runs, out: File = None, picture: File = None) -> None:
    """Draw a run, or several side by side, as one HTML page that needs no network.

    Args:
        runs: Run directories.
        out: The page to write. Without it RUN/report.html; for several runs comparison.html
            beside the first of them.
        picture: Also draw the loss curve alone into this .svg or .png file.
    """
    read_runs(runs)  # so that a wrong directory is named before anything is written
    page = runs[0] / "report.html" if len(runs) == 1 else runs[0].parent / "comparison.html"
    if picture:
        print(write_picture(runs, picture))
    print(write_report(runs, out or page))


def main() -> None:
    """Read the arguments and draw."""
    parse(report)


if __name__ == "__main__":
    run_program(main)
