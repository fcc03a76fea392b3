"""Whether the document table of a split is the one that was written, a file at a time."""

import hashlib
from collections.abc import Callable, Iterator

import tensorstore as ts

from fugaku_jax.data import store_format, store_format_1
from fugaku_jax.data.blocks import Blocks, joined_root
from fugaku_jax.data.kvstore import read_value
from fugaku_jax.data.store_format import Index, Split, SplitName
from fugaku_jax.ledger import documents, merkle

Found = Iterator[tuple[str, tuple[str, ...]]]
"""What is not as it was written, and the documents that it is in."""


def verify_documents(
    url: str,
    root: ts.KvStore,
    index: Index,
    set_index: int,
    split: SplitName,
    progress: Callable[[str, int, int], None],
) -> Found:
    """Yields what of a split's document table, and of what says where it lies, was altered."""
    side: Split = getattr(index.sets[set_index], split)
    place = index.prefix, set_index, split
    if index.version == 1:
        try:
            data = read_value(url, root, store_format_1.documents_key(*place))
            store_format_1.read_table(data, side.documents_root)
        except ValueError as error:
            yield str(error), ()
        progress("documents", side.documents, side.documents)
        return
    blocks = None
    try:
        blocks = Blocks.from_json(read_value(url, root, store_format.blocks_key(*place)), side)
    except ValueError as error:
        yield f"{store_format.blocks_key(*place)}: {error}", ()
    roots, altered = [], False
    for first in range(0, side.documents, documents.BLOCK_ROWS):
        block, last = len(roots), min(first + documents.BLOCK_ROWS, side.documents) - 1
        key = store_format.documents_key(*place, block)
        written, data, found = blocks.documents[block] if blocks else None, b"", ""
        try:
            data = read_value(url, root, key)
            found, why = _block_root(data), "is not as it was written"
        except ValueError as error:
            why = str(error)
        is_whole = written is None or (
            hashlib.sha256(data).hexdigest(),
            found,
        ) == (written.sha256, written.root)
        if not (found and is_whole):
            altered = True
            yield _altered(key, why, data, first, last)
        roots.append(found or merkle.leaf_hash(b"").hex())
        progress("documents", last + 1, side.documents)
    if not altered and joined_root(roots) != side.documents_root:
        yield "the rows do not lead to the root", ()


def _block_root(data: bytes) -> str:
    table = documents.from_parquet(data)
    return merkle.root(documents.leaf_hashes(table)).hex()


def _altered(key: str, why: str, data: bytes, first: int, last: int) -> tuple[str, tuple[str, ...]]:
    """What is wrong with a file of the rows `[first, last]`, and the ids of those that are hit."""
    try:
        rows = documents.altered_rows(data)
    except ValueError:
        return f"{key} with rows {first:,} to {last:,}: {why}", ()
    if not rows:
        return f"{key}: {why}, outside of its rows", ()
    numbers = f"{first + rows[0][0]:,} to {first + rows[-1][0]:,}"
    ids = tuple(identity or f"row {first + row}" for row, identity in rows)
    return f"{key}, {len(rows):,} of the rows {numbers}: {why}", ids
