"""Libraries that only the preparation of corpora needs: extras of `pyproject.toml`."""

import importlib
from typing import Any

from fugaku_jax.errors import InputError


def extra(module: str) -> Any:
    """Import a module of the extra `data`, or of `ray`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = (error.name or module).partition(".")[0]
        extra_name = "ray" if absent == "ray" else "data"
        raise InputError(
            f"{absent} is not installed; `pip install 'fugaku-jax[{extra_name}]'` does it."
        ) from error
