"""Format 1 of token stores: read as ever, no longer written.

It has one Parquet file a split with the table of documents, without `decisions`, and plain hashes
where format 2 has Merkle roots: of all tokens, and of the rows of the table.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from fugaku_jax.errors import InputError
from fugaku_jax.ledger import documents

_SPLITS = ("train", "validation")
_RENAMED = {"tokens_sha256": "tokens_root", "documents_sha256": "documents_root"}
COLUMNS = ("id", "source", "licence", "sha256", "start", "length", "bytes")
"""Of the files of document tables."""


def documents_key(prefix: str, set_index: int, split: str) -> str:
    """The key of a document table (Parquet)."""
    return f"{prefix}/{set_index}/{split}.documents.parquet"


def upgraded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `store.json`, or what is hashed of them, by the names of today.

    Raises:
        InputError: they are not those of format 1.
    """
    return _renamed(fields, _RENAMED)


def downgraded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`upgraded` inverted."""
    return _renamed(fields, {new: old for old, new in _RENAMED.items()})


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    try:
        sets = [
            each
            | {
                split: {
                    names.get(name, name): value
                    for name, value in each[split].items()
                    if name not in ("blocks_sha256", "place")
                }
                for split in _SPLITS
            }
            for each in fields["sets"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("The sets are not those of format 1.") from error
    return {**fields, "sets": sets}


def read_table(data: bytes, expected: str) -> pa.Table:
    """The document table in the bytes of a Parquet file, whose `digest` should be this.

    Raises:
        ValueError: it cannot be read, or has changed.
    """
    table = documents.from_parquet(data)
    if digest(table) != expected:
        raise ValueError("its contents have changed")
    return table


def digest(table: pa.Table) -> str:
    """A sha256 (hex) of the table's contents, the same whatever Parquet's version and layout.

    Every value enters with its length before it, so that no two tables give the same bytes.
    """
    running = hashlib.sha256()
    for batch in table.select(COLUMNS).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            values = ["" if value is None else f"={value}" for value in row.values()]
            encoded = [value.encode() for value in values]
            running.update(b"".join(b"%d:%s" % (len(value), value) for value in encoded))
    return running.hexdigest()
