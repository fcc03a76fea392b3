"""The document table of one side of a set, for reading: a file of many at a time."""

import functools
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import tensorstore as ts

from fugaku_jax.data import store_format, store_format_1
from fugaku_jax.data.blocks import Blocks
from fugaku_jax.data.kvstore import read_value
from fugaku_jax.data.store_format import Index, Split, SplitName
from fugaku_jax.errors import InputError
from fugaku_jax.ledger import documents

_KEPT = 2
"""Files that are kept decoded: what is asked of a run lies in few places."""


class DocumentTable:
    """Rows of id, source, licence, sha256, start, length (tokens), bytes and decisions.

    Every file is held to its hash when it is read. Methods raise InputError where one is missing,
    corrupt or of another size than the index says.
    """

    def __init__(
        self,
        url: str,
        root: ts.KvStore,
        index: Index,
        set_index: int,
        split: SplitName,
        checked: bool = True,
    ) -> None:
        """Args: the store's place and its index, and which side of which set.

        Not `checked`, a file that was altered is read too, if it can be.
        """
        self._checked = checked
        self._url, self._root, self._version = url, root, index.version
        self._place = index.prefix, set_index, split
        token_set = index.sets[set_index]
        self._split: Split = getattr(token_set, split)
        self._name = f"the {split} document table of set {token_set.name}"
        self.block = functools.lru_cache(_KEPT)(self._block)

    @functools.cached_property
    def blocks(self) -> Blocks:
        """Where the files begin, and their hashes."""
        key = store_format.blocks_key(*self._place)
        try:
            return Blocks.from_json(read_value(self._url, self._root, key), self._split)
        except ValueError as error:
            raise self._corrupt(error) from error

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that the files have."""
        return store_format_1.COLUMNS if self._version == 1 else tuple(documents.SCHEMA.names)

    def files(self) -> Iterator[tuple[str, str]]:
        """The key in the store of each file, in order, and its sha256 in hex."""
        if self._version == 1:  # whose index has that of what the table says
            key = store_format_1.documents_key(*self._place)
            yield key, hashlib.sha256(read_value(self._url, self._root, key)).hexdigest()
            return
        for number, block in enumerate(self.blocks.documents):
            yield store_format.documents_key(*self._place, number), block.sha256

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows in order, those of a file at a time.

        Args:
            columns: those wanted; all if None.
        """
        for block in range(self._count):
            yield self._block(block, columns)

    def spanning(self, first: int, last: int) -> pa.Table:
        """The rows of the documents with tokens in `[first, last]`."""
        starts = [0] if self._version == 1 else [each.start for each in self.blocks.documents]
        one, end = bisect_right(starts, first) - 1, bisect_right(starts, last)
        found = []
        for block in range(max(one, 0), end):
            table = self.block(block)
            begins = table["start"].to_numpy()
            ends = begins + table["length"].to_numpy()
            rows = pa.array((begins <= last) & (ends > first))
            found.append(table.filter(rows))
        return pa.concat_tables(found) if found else documents.SCHEMA.empty_table()

    def find(self, identity: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number and the row of each document with an id. Reads the ids of all."""
        before = 0
        for block, table in enumerate(self.tables(["id"])):
            # Not by an expression, which Arrow would give to threads of its own.
            same = pc.call_function("equal", [table["id"], identity]).to_numpy()
            for place in same.nonzero()[0].tolist():
                yield before + place, self.block(block).slice(place, 1).to_pylist()[0]
            before += table.num_rows

    @property
    def _count(self) -> int:
        return 1 if self._version == 1 else len(self.blocks.documents)

    def _block(self, block: int, columns: Sequence[str] | None = None) -> pa.Table:
        if self._version == 1:
            key = store_format_1.documents_key(*self._place)
        else:
            key = store_format.documents_key(*self._place, block)
        data = read_value(self._url, self._root, key)
        try:
            if self._version == 1:
                table = store_format_1.read_table(data, self._split.documents_root)
                return table if columns is None else table.select(columns)
            sha256 = hashlib.sha256(data).hexdigest()
            if self._checked and sha256 != self.blocks.documents[block].sha256:
                raise ValueError(f"the contents of file {block} have changed")
            table = documents.from_parquet(data, columns)
            rows = min(documents.BLOCK_ROWS, self._split.documents - block * documents.BLOCK_ROWS)
            if table.num_rows != rows:
                raise ValueError(f"file {block} has {table.num_rows} rows, not {rows}")
        except ValueError as error:
            raise self._corrupt(error) from error
        return table

    def _corrupt(self, error: ValueError) -> InputError:
        return InputError(f"store {self._url}: {self._name} is corrupt: {error}.")
