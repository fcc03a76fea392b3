"""Libraries that only the preparation of corpora needs: the extra `data`, and Ray."""

import importlib
from typing import Any

from fugaku_jax.errors import InputError


def extra(module: str) -> Any:
    """Import a module of the extra `data`, or Ray.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = (error.name or module).partition(".")[0]
        package = "ray" if absent == "ray" else "'.[data]'"
        raise InputError(f"{absent} is not installed; `pip install {package}` does it.") from error
