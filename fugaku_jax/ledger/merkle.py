"""Merkle trees of SHA-256 as certificates are logged in (RFC 6962, section 2.1).

A leaf is hashed as `SHA-256(0x00 ‖ data)`, a node as `SHA-256(0x01 ‖ left ‖ right)`, so that no
leaf passes for a node. A tree of n leaves is cut before the largest power of two below n; to pair
the hashes of a level, and take an odd last one along as it is, gives the same. So the roots of
blocks of 2^k leaves are a tree's level k: the root of those roots is the root of all leaves, and a
leaf's path is that in its block, then that of its block.
"""

import hashlib
from collections.abc import Iterable, Sequence

LEAF, NODE = b"\x00", b"\x01"


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf's data."""
    return hashlib.sha256(LEAF + data).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over hashes of leaves, or of equal blocks of 2^k leaves; the last is smaller.

    That over nothing is the hash of nothing.
    """
    level = list(hashes)
    while len(level) > 1:
        level = _above(level)
    return level[0] if level else hashlib.sha256().digest()


def path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes beside the way from a leaf up to `root(hashes)`: the audit path.

    Raises:
        IndexError: there is no such leaf.
    """
    if not 0 <= index < len(hashes):
        raise IndexError(f"a tree of {len(hashes)} leaves has no leaf {index}")
    level, found = list(hashes), []
    while len(level) > 1:
        if (beside := index ^ 1) < len(level):
            found.append(level[beside])
        level, index = _above(level), index >> 1
    return found


def root_of_path(leaf: bytes, index: int, size: int, path: Iterable[bytes]) -> bytes:
    """Return the root that a path leads to (RFC 9162, section 2.1.3.2).

    Args:
        leaf: hash of the leaf.
        index: its number among the leaves, from 0.
        size: leaves of the tree.
        path: hashes beside the way, from the leaf up.

    Raises:
        ValueError: no path of a tree of that size has that many hashes at that leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    reached, last = leaf, size - 1
    for beside in path:
        if not last:
            raise ValueError("the path goes on above the root")
        while index == last and not index & 1:  # an odd last one is taken along
            index, last = index >> 1, last >> 1
        left, right = (beside, reached) if index & 1 else (reached, beside)
        reached = hashlib.sha256(NODE + left + right).digest()
        index, last = index >> 1, last >> 1
    if last:
        raise ValueError("the path ends below the root")
    return reached


def _above(level: list[bytes]) -> list[bytes]:
    """Return the level above one of two hashes or more."""
    sha256 = hashlib.sha256
    pairs = zip(level[::2], level[1::2], strict=False)
    above = [sha256(NODE + left + right).digest() for left, right in pairs]
    return above + level[len(above) * 2 :]
