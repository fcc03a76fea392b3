"""The type checker that `conftest.py` gives jaxtyping: beartype's, with a memory."""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_checked: dict[tuple[Any, ...], Callable[..., Any]] = {}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what checks a call, made once for all functions of this name and these annotations.

    A function within a function is made anew on each call of the outer one, and jaxtyping then has
    its checks made anew, on functions that do nothing else. Tracing a step makes a hundred, and
    beartype takes longer to make one than to run it a hundred times.
    """
    annotations = tuple(function.__annotations__.items())
    key = (function.__module__, function.__qualname__, function.__code__.co_varnames, annotations)
    if key not in _checked:
        _checked[key] = beartype(function)
    return _checked[key]
