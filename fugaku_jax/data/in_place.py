"""Tokens that a store has left where they were, held to their hashes whenever they are read."""

import functools

import numpy as np
import tensorstore as ts

from fugaku_jax.data import store_format
from fugaku_jax.data.blocks import Blocks
from fugaku_jax.data.kvstore import context, read_value
from fugaku_jax.data.split_writer import chunk_hashes
from fugaku_jax.data.store_format import Index, Split, SplitName
from fugaku_jax.ledger import merkle

_KEPT = 16  # files of hashes, of 2 MiB


def open_in_place(
    url: str, root: ts.KvStore, index: Index, set_index: int, split: SplitName, cached: bool = True
) -> ts.TensorStore:
    """The tokens of a side of a set that has a `place`, read from there a chunk at a time.

    A read of tokens that are not those of the store is a ValueError of TensorStore's.

    Raises:
        InputError: their file is gone or too short.
    """
    side: Split = getattr(index.sets[set_index], split)
    where = index.prefix, set_index, split
    if side.place is None:
        raise ValueError("These tokens are the store's own.")
    there, dtype, size = side.place, np.dtype(index.dtype), store_format.CHUNK_TOKENS
    there.check(side.tokens)

    @functools.cache
    def blocks() -> Blocks:
        return Blocks.from_json(read_value(url, root, store_format.blocks_key(*where)), side)

    @functools.lru_cache(_KEPT)
    def hashes(block: int) -> list[bytes]:
        data = read_value(url, root, store_format.chunks_key(*where, block))
        leaves = [data[i : i + 32] for i in range(0, len(data), 32)]
        if merkle.root(leaves).hex() != blocks().tokens[block]:
            raise ValueError(f"{store_format.chunks_key(*where, block)} is corrupt")
        return leaves

    def read(domain: ts.IndexDomain, array: np.ndarray, _: object) -> None:
        begin, end = domain[0].inclusive_min, domain[0].exclusive_max
        for number in range(begin // size, -(-end // size)):
            first = number * size
            count = min(size, side.tokens - first)
            chunk = there.read(first, count).astype(dtype)
            block, place = divmod(number, store_format.BLOCK_CHUNKS)
            if len(chunk) < count or chunk_hashes(chunk) != [hashes(block)[place]]:
                raise ValueError(
                    f"tokens {first:,} to {first + count - 1:,} in {there.path} are not those that "
                    "the store was made of; put that file back"
                )
            low, high = max(begin, first), min(end, first + len(chunk))
            array[low - begin : high - begin] = chunk[low - first : high - first]

    return ts.virtual_chunked(
        read,
        dtype=dtype,
        shape=[side.tokens],
        chunk_layout=ts.ChunkLayout(read_chunk_shape=[size], grid_origin=[0]),
        context=context() if cached else ts.Context(),
    )
