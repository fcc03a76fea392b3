"""Tokens that a store has left where they were, held to their hashes whenever they are read."""

import functools

import numpy as np
import tensorstore as ts
from jaxtyping import Integer

from fugaku_jax.data import store_format
from fugaku_jax.data.blocks import Blocks
from fugaku_jax.data.kvstore import read_value
from fugaku_jax.data.split_writer import chunk_hashes
from fugaku_jax.data.store_format import Index, Split, SplitName
from fugaku_jax.errors import InputError
from fugaku_jax.ledger import merkle

_KEPT_CHUNKS = 1 << 10  # of 32 or 64 KiB
_KEPT_BLOCKS = 16  # files of hashes, of 2 MiB


class TokensInPlace:
    """The tokens of a side of a set that has a `place`.

    Not by TensorStore's `virtual_chunked`, which pickles what a callback raises.
    """

    def __init__(
        self, url: str, root: ts.KvStore, index: Index, set_index: int, split: SplitName
    ) -> None:
        """Args: the store's place and its index, and which side of which set.

        Raises:
            InputError: the file of the tokens is gone or too short.
        """
        self._url, self._root, self._key = url, root, (index.prefix, set_index, split)
        self._side: Split = getattr(index.sets[set_index], split)
        if self._side.place is None:
            raise ValueError("These tokens are the store's own.")
        self._place, self._dtype = self._side.place, np.dtype(index.dtype)
        self._place.check(self._side.tokens)
        self._chunk = functools.lru_cache(_KEPT_CHUNKS)(self._read_chunk)
        self._hashes = functools.lru_cache(_KEPT_BLOCKS)(self._read_hashes)

    def read(self, first: int, end: int) -> Integer[np.ndarray, " N"]:
        """Tokens `[first, end)`, in the store's data type.

        Raises:
            InputError: they are not those that the store was made of, or cannot be read.
        """
        size = store_format.CHUNK_TOKENS
        begin = first // size
        chunks = [self._chunk(number) for number in range(begin, -(-end // size))]
        return np.concatenate(chunks)[first - begin * size : end - begin * size]

    @functools.cached_property
    def _blocks(self) -> Blocks:
        key = store_format.blocks_key(*self._key)
        try:
            return Blocks.from_json(read_value(self._url, self._root, key), self._side)
        except ValueError as error:
            raise InputError(f"store {self._url}: {key} is corrupt: {error}.") from error

    def _read_hashes(self, block: int) -> list[bytes]:
        key = store_format.chunks_key(*self._key, block)
        data = read_value(self._url, self._root, key)
        leaves = [data[i : i + 32] for i in range(0, len(data), 32)]
        if merkle.root(leaves).hex() != self._blocks.tokens[block]:
            raise InputError(f"store {self._url}: {key} is corrupt.")
        return leaves

    def _read_chunk(self, number: int) -> Integer[np.ndarray, " C"]:
        first = number * store_format.CHUNK_TOKENS
        count = min(store_format.CHUNK_TOKENS, self._side.tokens - first)
        chunk = self._place.read(first, count).astype(self._dtype)
        block, place = divmod(number, store_format.BLOCK_CHUNKS)
        if len(chunk) < count or chunk_hashes(chunk) != [self._hashes(block)[place]]:
            raise InputError(
                f"store {self._url}: tokens {first:,} to {first + count - 1:,} in "
                f"{self._place.path} are not those that the store was made of; put that file back."
            )
        return chunk
