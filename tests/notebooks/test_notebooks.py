"""Every notebook runs from its first cell to its last, and is kept with what it put out."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FEWER = {
    "01": "steps = 8",
    "02": "steps = 2",
    "03": "steps = 3",
    "04": "steps, hours = 3, 2",
    "05": "rounds, proposals, steps = 2, 1024, 3",
}
"""What stands here in the cell tagged `parameters`: that all runs is seen in a few steps."""


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def kinds(notebook: nbformat.NotebookNode) -> list[set[str]]:
    """What each cell of code put out: text, pictures, errors."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [[{o.output_type, *o.get("data", {})} for o in cell.outputs] for cell in code]
    return [
        set().union(*each) & {"stream", "image/svg+xml", "image/png", "error"} for each in found
    ]


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_puts_out_what_is_kept(path):
    notebook, kept = read(path), kinds(read(path))
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    parameters.source = FEWER[path.stem[:2]]
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    assert kinds(notebook) == kept
    assert not any("error" in each for each in kept)
    assert any("svg" in kind or "png" in kind for each in kept for kind in each)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_and_no_other(path):
    first, *others = (cell.source for cell in read(path).cells if cell.cell_type == "code")
    assert "%pip install --quiet .." in first
    assert not any("pip" in source.split() for source in others)
