"""The document table: which document every token of a store came from.

One row a document, in the order of the tokens; files of `BLOCK_ROWS` rows, in Parquet, so that
other tools read them too. A row is a leaf of a Merkle tree, whatever Parquet's version and layout.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fugaku_jax.ledger.merkle import LEAF

BLOCK_ROWS = 1 << 16  # a file: a power of two, so that it is a subtree
_GROUP_ROWS = 1 << 10  # what damage to a file's bytes makes unreadable at most, of one column
_LEAF_START = pa.field("leaf", pa.uint32())  # tells which row was altered; proves nothing

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),  # null: not known
        pa.field("sha256", pa.string(), nullable=False),  # of the text's UTF-8 bytes, in hex
        pa.field("start", pa.int64(), nullable=False),  # first token
        pa.field("length", pa.int64(), nullable=False),  # tokens, with the end-of-document token
        pa.field("bytes", pa.int64(), nullable=False),  # of the text in UTF-8
        pa.field("decisions", pa.string()),  # what filters decided of it; null: nothing is known
    ]
)
_NUMBERS = ("start", "length", "bytes")
_STRINGS = ("id", "source", "licence", "sha256", "decisions")
_REPEATED = ["source", "licence", "decisions"]  # worth a dictionary


@dataclass(slots=True)
class DocumentRow:
    """What the table says about one document, but for its `start`, which is the table's to know."""

    id: str
    source: str
    licence: str | None
    sha256: str
    length: int  # tokens, with the end-of-document token
    bytes: int  # of the text in UTF-8
    decisions: str | None = None


def make_table(rows: Sequence[DocumentRow], start: int = 0) -> pa.Table:
    """The document table of `rows`, whose tokens lie one after the other from token `start`."""
    lengths = np.array([row.length for row in rows], np.int64)
    columns = {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "licence": [row.licence for row in rows],
        "sha256": [row.sha256 for row in rows],
        "start": start + np.cumsum(lengths) - lengths,
        "length": lengths,
        "bytes": np.array([row.bytes for row in rows], np.int64),
        "decisions": [row.decisions for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def leaf_hashes(table: pa.Table) -> list[bytes]:
    """The hash of each row's leaf.

    A leaf is `start`, `length` and `bytes` as 64 bits, then how many bytes `id`, `source`,
    `licence`, `sha256` and `decisions` have in UTF-8 as 32 bits (-1: null), all little endian, then
    these strings. So no two rows give the same bytes.
    """
    rows = table.num_rows
    binary = pa.large_binary()
    empty = pa.scalar(b"", binary)
    heads = np.zeros(rows, [("leaf", "S1"), ("numbers", "<i8", 3), ("lengths", "<i4", 5)])
    heads["leaf"] = LEAF
    for place, name in enumerate(_NUMBERS):
        heads["numbers"][:, place] = table[name].to_numpy()
    strings = []
    for place, name in enumerate(_STRINGS):
        column = table[name].combine_chunks()
        lengths = pc.call_function("binary_length", [column]).fill_null(-1)
        heads["lengths"][:, place] = lengths.to_numpy(zero_copy_only=False)
        strings.append(column.cast(binary).fill_null(b""))
    fixed = pa.binary(heads.dtype.itemsize)
    head = pa.FixedSizeBinaryArray.from_buffers(fixed, rows, [None, pa.py_buffer(heads.tobytes())])
    joined = pc.call_function("binary_join_element_wise", [head.cast(binary), *strings, empty])
    ends = np.frombuffer(joined.buffers()[1], np.int64)[: rows + 1].tolist()
    leaves, sha256 = memoryview(joined.buffers()[2] or b""), hashlib.sha256
    return [sha256(leaves[begin:end]).digest() for begin, end in pairwise(ends)]


def to_parquet(table: pa.Table, leaves: Sequence[bytes]) -> bytes:
    """The table as the bytes of a Parquet file, with the first 32 bits of each row's leaf hash."""
    starts = pa.array(_starts_of(leaves))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.append_column(_LEAF_START, starts),
        sink,
        compression="zstd",
        row_group_size=_GROUP_ROWS,
        use_dictionary=_REPEATED,
    )
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in the bytes of a Parquet file.

    Args:
        data: the file. A column `decisions` that it lacks, as those of format 1, is all null.
        columns: those wanted; all of `SCHEMA` if None.

    Raises:
        ValueError: the bytes are no Parquet file, are not a document table, or the token spans do
            not lie one after the other.
    """
    wanted = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    # One of Arrow's threads could be the last to hold `data`, and give it back to a Python that has
    # ended meanwhile: that aborts the program (https://github.com/apache/arrow/issues/34314).
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        there = file.schema_arrow
        _check_schema(there)
        table = file.read([name for name in wanted.names if name in there.names], use_threads=False)
        if "decisions" in wanted.names and "decisions" not in there.names:
            nulls = pa.nulls(table.num_rows, pa.string())
            table = table.append_column("decisions", nulls)
        table = table.select(wanted.names).cast(wanted)
    except (pa.ArrowException, OSError) as error:  # few of Arrow's are a ValueError
        raise ValueError(f"it cannot be read: {error}") from error
    if {"start", "length"} <= set(wanted.names) and not _is_gapless(table):
        raise ValueError("the token spans of the documents do not lie one after the other")
    return table


def altered_rows(data: bytes) -> list[tuple[int, str | None]]:
    """The rows of a damaged Parquet file whose leaf is not the one that was written.

    Rows that cannot be read are among them: up to `_GROUP_ROWS` with one column's damage.

    Returns:
        Their numbers in the file and their ids, None where that cannot be read.

    Raises:
        ValueError: nothing of the file can be read.
    """
    found: list[tuple[int, str | None]] = []
    try:
        file, first = pq.ParquetFile(pa.BufferReader(data)), 0
        _check_schema(file.schema_arrow)
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) > BLOCK_ROWS:
            raise ValueError(f"it says that it has {sum(groups)} rows")
        for group, rows in enumerate(groups):
            ids = _column(file, group, "id") or []
            ids += [None] * (rows - len(ids))
            found += [(first + row, ids[row]) for row in _altered(file, group, rows)]
            first += rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    return found


def _column(file: pq.ParquetFile, group: int, name: str) -> list[str | None] | None:
    try:
        return file.read_row_group(group, [name], use_threads=False)[name].to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        return None


def _altered(file: pq.ParquetFile, group: int, rows: int) -> list[int]:
    try:
        table = file.read_row_group(group, use_threads=False)
        starts = _starts_of(leaf_hashes(table.cast(SCHEMA.append(_LEAF_START))))
        altered = starts != table[_LEAF_START.name].to_numpy()
        return np.flatnonzero(altered).tolist() if len(altered) == rows else list(range(rows))
    except (pa.ArrowException, OSError, ValueError):
        return list(range(rows))


def _starts_of(leaves: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(leaf[:4] for leaf in leaves), "<u4")


def _check_schema(there: pa.Schema) -> None:
    names = [name for name in there.names if name != _LEAF_START.name]
    wanted = [field for field in SCHEMA if field.name in names or field.name != "decisions"]
    if names != [field.name for field in wanted] or any(
        there.field(field.name).type != field.type for field in wanted
    ):
        raise ValueError(f"a document table has the columns {', '.join(SCHEMA.names)}")


def _is_gapless(table: pa.Table) -> bool:
    starts, lengths = table["start"].to_numpy(), table["length"].to_numpy()
    return len(starts) == 0 or np.array_equal(starts, starts[0] + np.cumsum(lengths) - lengths)
