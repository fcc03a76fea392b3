"""Libraries that only the preparation of corpora needs: the extra `data` of `pyproject.toml`."""

import importlib
from typing import Any

from fugaku_jax.errors import InputError


def extra(module: str) -> Any:
    """Import a module of the extra `data`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{module.partition('.')[0]} is not installed; `pip install fugaku-jax[data]` does it."
        ) from error
