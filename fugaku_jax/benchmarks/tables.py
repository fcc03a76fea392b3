"""What was measured, as tables or as one JSON object."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

Row = Mapping[str, Any]


def show(figures: Row, as_json: bool, contender: str = "", **columns: Sequence[str]) -> None:
    """Print each list of rows as a table, and what else there is below them.

    Args:
        figures: by name; lists have a row for each contender.
        as_json: print one JSON object of them all instead.
        contender: whose they are; they are then the one row of a table.
        columns: what is shown of the rows of a list; all without it.
    """
    if as_json:
        return print(json.dumps(figures))
    if contender:
        return _show([{"contender": contender, **figures}])
    tables = {name: value for name, value in figures.items() if isinstance(value, list)}
    for name, rows in tables.items():
        _show(rows, *columns.get(name, ()))
    others = {name: value for name, value in figures.items() if name not in tables}
    return Console().print(others) if others else None


def _show(rows: Sequence[Row], *names: str) -> None:
    shown = [n for n in names or rows[0] if n != "contender" and not n.endswith(("_min", "_max"))]
    lines = [["contender", *shown]]
    lines += [[row["contender"], *(_cell(row, name) for name in shown)] for row in rows]
    # Names of figures are long, so a few contenders stand side by side.
    first, *others = lines if len(rows) > 8 else zip(*lines, strict=True)
    table = Table(*(Column(name, justify="right") for name in first))
    for line in others:
        table.add_row(*line)
    Console().print(table)


def _cell(row: Row, name: str) -> str:
    """Write a figure, with the least and the greatest of its measurements if they are known."""
    ends = (row[end] for end in (f"{name}_min", f"{name}_max") if end in row)
    value, *spread = (
        f"{x:,.3g}" if isinstance(x, float) else str(x) for x in (row.get(name, ""), *ends)
    )
    return f"{value} ({'–'.join(spread)})" if spread else value
