"""What a store is made of: plain files, or a mixture file that gives them names and weights."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fugaku_jax.data.corpus import check_input
from fugaku_jax.errors import InputError
from fugaku_jax.json_types import shown


@dataclass(frozen=True)
class InputSet:
    """Files that become one set of a store."""

    name: str
    paths: tuple[Path, ...]
    domain: str = "text"  # ja, en, math, code, …
    weight: int | float | None = None  # share in the mixture, in tokens; None: the tokens it has
    source: str | None = None  # for documents that give none themselves
    licence: str | None = None  # likewise


_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "domain": (str,),
    "weight": (int, float),
    "paths": (list,),
    "source": (str,),
    "licence": (str,),
}


def read_inputs(arguments: Sequence[Path]) -> list[InputSet]:
    """The sets that files and mixture files (`.toml`) stand for, in order.

    A plain file becomes a set named like the file without its ending.

    Raises:
        InputError: a file is absent or of an unknown kind, a mixture file is wrong, a name is given
          twice, or all weights are zero.
    """
    sets: list[InputSet] = []
    for path in arguments:
        if path.name.lower().endswith(".toml"):
            sets += _read_mixture(path)
        else:
            check_input(path)
            sets.append(InputSet(path.name.partition(".")[0] or path.name, (path,)))
    if not sets:
        raise InputError("inputs: none were given; give files or a mixture file (.toml).")
    seen: set[str] = set()
    for each in sets:
        if each.name in seen:
            raise InputError(
                f"inputs: two sets are named {each.name}; "
                "put them in a mixture file (.toml) and give each its own name."
            )
        seen.add(each.name)
    if all(each.weight == 0 for each in sets):
        raise InputError("inputs: all weights are zero; give at least one set a weight.")
    return sets


def _read_mixture(path: Path) -> list[InputSet]:
    try:
        fields = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"mixture {path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"mixture {path}: not valid TOML: {error}.") from error
    tables = fields.pop("input", None)
    if fields or not isinstance(tables, list) or not tables:
        raise InputError(f"mixture {path}: must hold [[input]] tables and nothing else.")
    return [_input_set(path, number, table) for number, table in enumerate(tables, 1)]


def _input_set(path: Path, number: int, table: Any) -> InputSet:
    where = f"mixture {path}: input {number}"
    if not isinstance(table, dict):
        raise InputError(f"{where}: must be a table, got {shown(table)}.")
    for field, value in table.items():
        if field not in _TYPES:
            raise InputError(
                f"{where}: unknown field `{field:.100}`; known are {', '.join(_TYPES)}."
            )
        if not isinstance(value, _TYPES[field]) or isinstance(value, bool):
            kinds = " or ".join(kind.__name__ for kind in _TYPES[field])
            raise InputError(f"{where}: `{field}` must be of type {kinds}, got {shown(value)}.")
    for field in ("name", "paths"):
        if not table.get(field):
            raise InputError(f"{where}: has no `{field}`.")
    weight = table.get("weight")
    if weight is not None and not 0 <= weight < math.inf:
        raise InputError(
            f"{where} ({table['name']:.100}): `weight` must be ≥ 0 tokens, got {weight}."
        )
    paths = []
    for name in table["paths"]:
        if not isinstance(name, str):
            raise InputError(f"{where}: `paths` must be file names, got {shown(name)}.")
        # Relative to the mixture file, so that the two can be moved together.
        paths.append(path.parent / name)
        check_input(paths[-1])
    values: dict[str, Any] = {**table, "paths": tuple(paths)}
    return InputSet(**values)
