"""Pictures as SVG files, the same for the same input."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from fugaku_jax.errors import InputError

DOTS_PER_INCH = 200
"""Of the parts that are an image inside the SVG."""
_FILE_ENTRIES = ("Creator", "Date", "Format", "Type")  # that Matplotlib would write


def check_name(path: Path) -> None:
    """Refuse a file that is no SVG by its name, before anything is drawn.

    Raises:
        InputError: the path does not end in `.svg`.
    """
    if path.suffix != ".svg":
        raise InputError(f"{path} is no name of this picture; let it end in .svg.")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure and return `path`.

    Raises:
        InputError: it cannot be written.
    """
    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fugaku_jax"}):
        figure.savefig(file, format="svg", dpi=DOTS_PER_INCH, metadata=dict.fromkeys(_FILE_ENTRIES))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None
    return path
