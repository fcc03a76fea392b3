"""JSON that anybody may have written: its size, its nesting and its numbers are bounded.

What comes out can be walked through, shown, hashed and written again without another check.
"""

import json
from pathlib import Path
from typing import Any

from fugaku_jax.errors import InputError

LARGEST = 16_000_000
"""Most bytes; headers and indices of large models have tens of thousands."""
DEEPEST = 64
"""Most levels of objects and arrays, one inside another."""
_MOST_DIGITS = 20  # of a whole number: those of 64 bits


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        InputError: it cannot be read, or as `parse_json`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return parse_json(data, str(path))


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Read one JSON object.

    Args:
        data: the object in UTF-8, a byte-order mark before it or not.
        name: what errors call it by.

    Raises:
        InputError: it is too large, no JSON, no object, nested too deeply, or has a whole number of
            more than 20 digits or half of a surrogate pair, which no text has.
    """
    if len(data) > LARGEST:
        raise InputError(f"{name} is larger than {LARGEST:,} bytes.")
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_int=_whole_number)
        _check(value)
    except UnicodeEncodeError:
        raise InputError(f"{name} has half of a surrogate pair, which is no text.") from None
    except RecursionError:
        raise InputError(f"{name} is nested more than {DEEPEST} levels deep.") from None
    except ValueError as error:
        raise InputError(f"{name} is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{name} is no JSON object.")
    return value


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits, {_MOST_DIGITS} at most do")
    return int(digits)


def _check(value: Any) -> None:
    """Look at every value, level by level, as looking by recursion could be too deep."""
    level = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, str):
                each.encode()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, dict):
                below += each
                below += each.values()
        if not below:
            return
        level = below
    raise RecursionError
