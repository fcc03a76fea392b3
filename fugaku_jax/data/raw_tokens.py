"""Tokens as they lie in a store's files, whether or not their checksums are right.

TensorStore refuses a damaged chunk; to tell which document the damage is in, it must be looked at.
A file ends with an index: for each of its chunks where it begins and how many bytes it has, 64 bits
each, and a checksum of 4 bytes (zarr 3, `sharding_indexed`).
"""

import functools

import numpy as np
import tensorstore as ts
from jaxtyping import Integer

from fugaku_jax.data import store_format
from fugaku_jax.data.marks import document_of
from fugaku_jax.data.store_format import SplitName
from fugaku_jax.data.token_files import Place

_CHECKSUM_BYTES = 4


class RawTokens:
    """The tokens of one side of a set, unchecked."""

    def __init__(
        self,
        root: ts.KvStore,
        prefix: str,
        set_index: int,
        split: SplitName,
        dtype: str,
        elsewhere: Place | None = None,
        marked: bool = False,
    ) -> None:
        """Args: the store, which side of which set, the tokens' type; where, if not in it.

        Marked tokens are those of `marks.py`; without their marks, and without padding, they come.
        """
        self._elsewhere, self._marked = elsewhere, marked
        self._root, self._place = root, (prefix, set_index, split)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._file = functools.lru_cache(1)(self._read_file)

    def read(self, start: int, length: int) -> Integer[np.ndarray, "T"] | None:
        """Tokens from `start` on; None if where they lie is not known."""
        if self._elsewhere is not None:
            return self._elsewhere.read(start, length)
        size = store_format.CHUNK_TOKENS
        first, last = start // size, (start + length - 1) // size
        chunks = [self._chunk(number) for number in range(first, last + 1)]
        there = [each for each in chunks if each is not None]
        if len(there) < len(chunks):
            return None
        tokens = np.concatenate(there)[start - first * size :][:length]
        return document_of(tokens) if self._marked else tokens

    def _chunk(self, number: int) -> Integer[np.ndarray, "C"] | None:
        chunks_a_file = store_format.SHARD_TOKENS // store_format.CHUNK_TOKENS
        file, place = divmod(number, chunks_a_file)
        data = self._file(file)
        index_bytes = 16 * chunks_a_file
        index = data[-index_bytes - _CHECKSUM_BYTES : -_CHECKSUM_BYTES]
        if len(index) < index_bytes:
            return None
        begin, size = np.frombuffer(index, "<u8").reshape(-1, 2)[place].tolist()
        wanted = store_format.CHUNK_TOKENS * self._dtype.itemsize
        if size != wanted + _CHECKSUM_BYTES or begin + size > len(data):
            return None
        return np.frombuffer(data, self._dtype, store_format.CHUNK_TOKENS, begin)

    def _read_file(self, number: int) -> bytes:
        found = self._root.read(store_format.shard_key(*self._place, number)).result()
        return found.value if found.state == "value" else b""
