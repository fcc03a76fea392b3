"""Machines and recipes that plans are made for."""

import runpy
from pathlib import Path

import pytest

from fugaku_jax.config import Config
from fugaku_jax.tofu.machine import Machine, read_machine

ROOT = Path(__file__).parents[2]


def _machine(name: str) -> Machine:
    return read_machine(ROOT / "configs" / "machines" / f"{name}.toml")


@pytest.fixture(scope="session")
def fugaku() -> Machine:
    return _machine("fugaku")


@pytest.fixture(scope="session")
def successor() -> Machine:
    return _machine("successor")


@pytest.fixture(scope="session")
def cluster() -> Machine:
    return _machine("cluster")


@pytest.fixture(scope="session")
def recipes() -> dict[str, Config]:
    """Every recipe there is, by name."""
    files = (ROOT / "configs").glob("[a-z]*.py")
    return {path.stem: runpy.run_path(str(path))[path.stem]() for path in files}
