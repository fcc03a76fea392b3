"""Values from outside as the types that annotations say, or a sentence that names the field."""

import dataclasses
import reprlib
import sys
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fugaku_jax.errors import InputError

_SAID = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
    NoneType: "null",
}
_MOST_SHOWN = 200  # characters of a value
_SHORT = reprlib.Repr()  # does not walk through all of what is large or nested
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def shown(value: Any) -> str:
    """Return a value as an error shows it: short, however large and however nested it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def typed(kind: Any, value: Any, name: str = "") -> Any:
    """Return a value, as JSON or a pickle gives it, as an annotation says.

    A list becomes a tuple, and a whole number a float where one is due; nothing else is converted.

    Args:
        kind: `int`, `float`, `str`, `bool`, None's type, a `Literal`, a tuple or union of these, or
            a dataclass whose fields are of these kinds.
        value: what was read.
        name: what errors call it by; fields of a dataclass are `name.field`.

    Raises:
        InputError: it is of another type, a number that is not finite or has no room in 64 bits, or
            an object with a field too many or too few.
    """
    if dataclasses.is_dataclass(kind):
        return _made(kind, value, name)
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        for each in arguments:
            if _is(each, value) or (dataclasses.is_dataclass(each) and isinstance(value, Mapping)):
                return typed(each, value, name)
    elif get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(typed(arguments[0], each, f"{name}[{i}]") for i, each in enumerate(value))
    elif _is(kind, value):
        return float(value) if kind is float else value
    raise InputError(f"{name} is {shown(value)}, but it must be {_said(kind)}.")


def _is(kind: Any, value: Any) -> bool:
    """Tell whether a single value is of a kind."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is kind and (kind is not int or -(2**63) <= value < 2**63)


def _said(kind: Any) -> str:
    """Return a kind in words."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(arguments)
    if get_origin(kind) is tuple:
        return f"a list of {_said(arguments[0]).split(' ', 1)[-1]}s"
    return " or ".join(map(_said, arguments)) if arguments else _SAID.get(kind, "an object")


def _made(kind: Any, value: Any, name: str) -> Any:
    """Make a dataclass of an object."""
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {shown(value)}, but it must be an object.")
    start = f"{name}." if name else ""
    hints, required = get_type_hints(kind), dataclasses.MISSING
    for field in dataclasses.fields(kind):
        has_default = (field.default, field.default_factory) != (required, required)
        if field.name not in value and not has_default:
            raise InputError(f"{start}{field.name} is missing.")
    for field in value:
        if field not in hints:
            raise InputError(f"{start}{field} is no field that this version has.")
    return kind(**{each: typed(hints[each], value[each], f"{start}{each}") for each in value})
