"""What befell a document, and why: one row a decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fugaku_jax.run.whole_file import replace_file

_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "stage", "action", "reason")])


@dataclass(frozen=True)
class Decision:
    """A document was changed or dropped by a stage."""

    id: str
    source: str | None
    stage: str
    action: Literal["changed", "dropped"]
    reason: str
    """With the value and the threshold that it was held to."""


def write_decisions(path: Path, decisions: Sequence[Decision]) -> None:
    """Write a table of decisions, whole or not at all."""
    rows = {name: [getattr(each, name) for each in decisions] for name in _SCHEMA.names}
    table = pa.table(rows, schema=_SCHEMA)
    replace_file(path, lambda file: pq.write_table(table, file, compression="zstd"))


def read_decisions(path: Path) -> list[Decision]:
    """Read a table of decisions."""
    return [Decision(**row) for row in pq.read_table(path).to_pylist()]
