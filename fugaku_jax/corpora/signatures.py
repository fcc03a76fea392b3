"""What documents are compared by: fixed-width records, sorted, so that tasks can merge them.

Own code around rensa's MinHash: rensa's and datasketch's indexes hold all documents in memory, and
which copy they keep depends on the order in which workers hand them over.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped, UInt64

from fugaku_jax.corpora.extras import extra
from fugaku_jax.corpora.recipe import NearDuplicates

TEXT = np.dtype([("hash", "<u8"), ("rest", "<u8"), ("order", "<u8")])
"""A document by 128 bits of a text's or a name's sha256; `order` is its place in the recipe."""
BAND = np.dtype([("hash", "<u8"), ("order", "<u8")])
"""A document by one band of its MinHash."""
_SEED = 1
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def digest(data: bytes) -> bytes:
    """Return the first 128 bits of a text's sha256."""
    return hashlib.sha256(data).digest()[:16]


def text_records(
    digests: Sequence[bytes], orders: Sequence[int]
) -> Shaped[np.ndarray, "documents"]:
    """Return records of the type `TEXT`, sorted, for what `digest` gave."""
    found = np.empty(len(digests), TEXT)
    parts = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
    found["hash"], found["rest"], found["order"] = parts[:, 0], parts[:, 1], orders
    return np.sort(found)


def band_hashes(text: str, near: NearDuplicates) -> UInt64[np.ndarray, "bands"] | None:
    """Return a hash of each band of a text's MinHash; None if it is shorter than an n-gram.

    Source: Broder, On the resemblance and containment of documents (1997); the hashes are rensa's.
    """
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    if len(points) < near.ngram:
        return None
    h = points[: len(points) - near.ngram + 1] * _FACTOR
    for i in range(1, near.ngram):
        h ^= h >> np.uint64(32)
        h = h * _FACTOR + points[i : len(points) - near.ngram + 1 + i]
    h ^= h >> np.uint64(29)
    h *= _FACTOR
    grams = np.unique(h)
    minima = extra("rensa").RMinHash.digest_matrix_from_flat_token_hashes(
        grams, [0, len(grams)], near.bands * near.rows, _SEED
    )
    rows = np.array(minima.to_rows()[0], np.uint32).reshape(near.bands, near.rows)
    bands = [hashlib.sha256(row.tobytes()).digest()[:8] for row in rows]
    return np.frombuffer(b"".join(bands), "<u8")


def band_records(
    hashes: Sequence[UInt64[np.ndarray, "bands"]], orders: Sequence[int], bands: int
) -> Shaped[np.ndarray, "bands documents"]:
    """Return records of the type `BAND`, sorted within each band."""
    found = np.empty((bands, len(hashes)), BAND)
    if hashes:
        found["hash"] = np.stack(hashes, axis=1)
    found["order"] = np.array(orders, "<u8")
    return np.sort(found, axis=1)
