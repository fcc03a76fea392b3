"""The document table: which document every token of a store came from.

One row a document, in the order of the tokens. Kept as Parquet, so that other tools read it too.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),  # null: not known
        pa.field("sha256", pa.string(), nullable=False),  # of the text's UTF-8 bytes, in hex
        pa.field("start", pa.int64(), nullable=False),  # first token
        pa.field("length", pa.int64(), nullable=False),  # tokens, with the end-of-document token
        pa.field("bytes", pa.int64(), nullable=False),  # of the text in UTF-8
    ]
)


@dataclass(frozen=True)
class DocumentRow:
    """What the table says about one document, but for its `start`, which is the table's to know."""

    id: str
    source: str
    licence: str | None
    sha256: str
    length: int  # tokens, with the end-of-document token
    bytes: int  # of the text in UTF-8


def make_table(rows: Iterable[DocumentRow]) -> pa.Table:
    """The document table of `rows`, whose tokens lie one after the other from token 0."""
    rows = list(rows)
    lengths = np.array([row.length for row in rows], np.int64)
    columns = {
        "id": [row.id for row in rows],
        "source": [row.source for row in rows],
        "licence": [row.licence for row in rows],
        "sha256": [row.sha256 for row in rows],
        "start": np.cumsum(lengths) - lengths,
        "length": lengths,
        "bytes": np.array([row.bytes for row in rows], np.int64),
    }
    return pa.table(columns, schema=SCHEMA)


def to_parquet(table: pa.Table) -> bytes:
    """The table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def from_parquet(data: bytes) -> pa.Table:
    """The table in the bytes of a Parquet file.

    Raises:
        ValueError: the bytes are no Parquet file, are not a document table, or the token spans do
            not lie one after the other.
    """
    # One of Arrow's threads could be the last to hold `data`, and give it back to a Python that has
    # ended meanwhile: that aborts the program (https://github.com/apache/arrow/issues/34314).
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:  # few of Arrow's are a ValueError
        raise ValueError(f"it cannot be read: {error}") from error
    if table.schema.names != SCHEMA.names or table.schema.types != SCHEMA.types:
        raise ValueError(f"a document table has the columns {', '.join(SCHEMA.names)}")
    lengths = table["length"].to_numpy()
    if not np.array_equal(table["start"].to_numpy(), np.cumsum(lengths) - lengths):
        raise ValueError("the token spans of the documents do not lie one after the other")
    return table.cast(SCHEMA)


def digest(table: pa.Table) -> str:
    """A sha256 (hex) of the table's contents, the same whatever Parquet's version and layout.

    Every value enters with its length before it, so that no two tables give the same bytes.
    """
    running = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            values = ["" if value is None else f"={value}" for value in row.values()]
            encoded = [value.encode() for value in values]
            running.update(b"".join(b"%d:%s" % (len(value), value) for value in encoded))
    return running.hexdigest()
