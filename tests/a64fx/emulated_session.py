"""A pytest plugin for the emulated machine, where a test takes long and most of it is compiling.

What was compiled is kept beside the machine. Hypothesis stops after a few examples, each of which
is a program to compile, and does not mind that it is slow to draw them. The reference, which is
XLA's code and not ours, is not tested by itself.
"""

import os
from typing import Any

import jax
import pytest
from hypothesis import HealthCheck, settings

MOST_EXAMPLES = 5

# Read before the tests' own conftest.py, which sets it to a folder that lives as long as a session.
_compiled = os.environ["JAX_COMPILATION_CACHE_DIR"]
_initialise = settings.__init__


def _initialise_with_few(self: settings, *args: Any, **given: Any) -> None:
    if isinstance(given.get("max_examples"), int):
        given["max_examples"] = min(given["max_examples"], MOST_EXAMPLES)
    given.setdefault("suppress_health_check", [HealthCheck.too_slow])
    _initialise(self, *args, **given)


settings.__init__ = _initialise_with_few


def pytest_configure() -> None:
    """Keep what is compiled."""
    jax.config.update("jax_compilation_cache_dir", _compiled)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of native libraries, and those that choose their kernels themselves."""
    items[:] = [item for item in items if _implementation(item) != "reference"]


def _implementation(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("implementation") if callspec else None
