"""Writes one side of a set: its tokens, its document table and the hashes of both, as they come.

What is held is one shard of tokens and one block of rows, however many documents there are.
"""

import hashlib
import lzma
from dataclasses import dataclass

import numpy as np
import tensorstore as ts
from jaxtyping import Integer

from fugaku_jax.data import store_format
from fugaku_jax.data.blocks import Blocks, DocumentBlock, joined_root
from fugaku_jax.data.kvstore import storage_errors
from fugaku_jax.data.store_format import Split, SplitName
from fugaku_jax.data.token_files import Place
from fugaku_jax.ledger import documents, merkle
from fugaku_jax.ledger.documents import DocumentRow

# `xz -9e` but for its window: one of 64 MiB takes up to 0.7 GB of memory, the more of it the more
# text there is, and one of 2 MiB some 25 MB.
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 21}]


@dataclass(slots=True)
class EncodedDocument:
    """A document ready to be stored."""

    row: DocumentRow
    tokens: Integer[np.ndarray, "T"]  # with the end-of-document token, in the store's data type
    text: bytes  # UTF-8


class SplitWriter:
    """Writes the documents that are appended to it; use `StoreWriter.add_set`."""

    def __init__(
        self,
        url: str,
        root: ts.KvStore,
        prefix: str,
        set_index: int,
        split: SplitName,
        dtype: str,
        place: Place | None = None,
    ) -> None:
        """Args: the store's place and its prefix, which side of which set, and the tokens' type.

        With a place, the tokens lie there already, beginning with the first that comes.
        """
        self._url, self._root, self._dtype = url, root, dtype
        self._place = prefix, set_index, split
        self._tokens_place = place
        self._array: ts.TensorStore | None = None
        self._array_sha256: str | None = None
        self._write: ts.WriteFutures | None = None  # the last to the array
        # The shard that is filling. Tokens are copied into it: as they come they are parts of a
        # block of documents, and the few that are held out of each would keep all of them.
        self._pending: np.ndarray = np.empty(0, dtype)
        self._pending_tokens = 0
        self._tokens = 0  # those before
        self._chunks: list[bytes] = []  # hashes of the block that is filling
        self._chunk_roots: list[str] = []
        self._rows: list[DocumentRow] = []  # of the block that is filling
        self._rows_start = self._rows_tokens = 0  # its first token, and its tokens
        self._document_blocks: list[DocumentBlock] = []
        self._documents = self._bytes = 0
        self._xz: lzma.LZMACompressor | None = None
        self._xz_bytes = 0

    def append(self, document: EncodedDocument) -> None:
        """Adds a document. Raises InputError when the place is full."""
        row = document.row
        self._rows.append(row)
        self._rows_tokens += row.length
        self._documents += 1
        self._bytes += row.bytes
        if len(self._rows) == documents.BLOCK_ROWS:
            self._end_document_block()
        if self._place[2] == "validation":
            self._xz = self._xz or lzma.LZMACompressor(filters=_XZ)
            self._xz_bytes += len(self._xz.compress(document.text))
        tokens = document.tokens
        while len(tokens):
            if self._pending_tokens == len(self._pending):  # of no shard, or written
                self._pending = np.empty(store_format.SHARD_TOKENS, self._dtype)
                self._pending_tokens = 0
            room = len(self._pending) - self._pending_tokens
            end = self._pending_tokens + min(room, len(tokens))
            self._pending[self._pending_tokens : end] = tokens[:room]
            tokens = tokens[room:]
            self._pending_tokens = end
            if end == len(self._pending):
                self._put_tokens(self._pending)

    def finish(self) -> Split:
        """Writes what is left, and says what was written. Raises as `append`."""
        if self._pending_tokens < len(self._pending):
            self._put_tokens(self._pending[: self._pending_tokens])
        if self._array is not None:
            self.wait()
            with storage_errors(self._url, "written"):
                self._array.resize(exclusive_max=[self._tokens], resize_metadata_only=True).result()
                metadata = self._root.read(store_format.array_key(*self._place)).result().value
            self._array_sha256 = hashlib.sha256(metadata).hexdigest()
        if self._chunks:
            self._end_chunk_block()
        if self._rows:
            self._end_document_block()
        blocks = Blocks(
            self._array_sha256, tuple(self._chunk_roots), tuple(self._document_blocks)
        ).to_json()
        self._put(store_format.blocks_key(*self._place), blocks)
        if self._xz is not None:
            self._xz_bytes += len(self._xz.flush())
        return Split(
            tokens=self._tokens,
            documents=self._documents,
            bytes=self._bytes,
            xz_bytes=self._xz_bytes if self._place[2] == "validation" else None,
            tokens_root=joined_root(self._chunk_roots),
            documents_root=joined_root([each.root for each in self._document_blocks]),
            blocks_sha256=hashlib.sha256(blocks).hexdigest(),
            place=self._tokens_place if self._tokens else None,
        )

    def wait(self) -> None:
        """Waits for the last write of tokens, so that its errors are seen. Raises as `append`."""
        if self._write is not None:
            with storage_errors(self._url, "written"):
                self._write.result()

    def _put(self, key: str, value: bytes) -> None:
        with storage_errors(self._url, "written"):
            self._root.write(key, value).result()

    def _put_tokens(self, tokens: np.ndarray) -> None:
        """Starts to write tokens, when the write before is done."""
        self.wait()
        end = self._tokens + len(tokens)
        if self._tokens_place is None:
            with storage_errors(self._url, "written"):
                if self._array is None:
                    created = store_format.create_array(self._root, *self._place, self._dtype)
                    self._array = created.result()
                self._write = self._array[self._tokens : end].write(tokens)
        self._tokens = end
        for leaf in chunk_hashes(tokens):
            self._chunks.append(leaf)
            if len(self._chunks) == store_format.BLOCK_CHUNKS:
                self._end_chunk_block()

    def _end_chunk_block(self) -> None:
        key = store_format.chunks_key(*self._place, len(self._chunk_roots))
        self._put(key, b"".join(self._chunks))
        self._chunk_roots.append(merkle.root(self._chunks).hex())
        self._chunks = []

    def _end_document_block(self) -> None:
        table = documents.make_table(self._rows, self._rows_start)
        leaves = documents.leaf_hashes(table)
        data = documents.to_parquet(table, leaves)
        self._put(store_format.documents_key(*self._place, len(self._document_blocks)), data)
        root, sha256 = merkle.root(leaves).hex(), hashlib.sha256(data).hexdigest()
        self._document_blocks.append(DocumentBlock(self._rows_start, root, sha256))
        self._rows_start += self._rows_tokens
        self._rows, self._rows_tokens = [], 0


def chunk_hashes(tokens: Integer[np.ndarray, " N"]) -> list[bytes]:
    """The hashes of the leaves that tokens are, from the beginning of one."""
    little_endian = tokens.astype(tokens.dtype.newbyteorder("<"), copy=False)
    size = store_format.CHUNK_TOKENS
    starts = range(0, len(tokens), size)
    return [merkle.leaf_hash(little_endian[start : start + size].tobytes()) for start in starts]
