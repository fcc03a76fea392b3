"""Imports point down: programs use the package, tests use both, and nothing the other way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = {path.stem for path in (ROOT / "launch").rglob("*.py")} | {"launch"}
TESTS = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"tests", "pytest"}
RECIPES = {path.stem for path in (ROOT / "configs").glob("*.py")} | {"configs"}


def imported(path):
    """Yield the first names of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize(
    ("folder", "above"),
    [("fugaku_jax", PROGRAMS | TESTS | RECIPES), ("launch", TESTS), ("configs", PROGRAMS | TESTS)],
)
def test_nothing_imports_what_stands_above_it(folder, above):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = {(path.name, name) for path in files for name in imported(path)}
    assert not {(file, name) for file, name in found if name in above}
