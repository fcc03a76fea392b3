"""Merkle trees are those of RFC 6962, and a path that was changed leads to another root."""

import hashlib
import random

import pytest

from fugaku_jax.ledger.merkle import leaf_hash, path, root, root_of_path

SIZES = [*range(1, 35), 63, 64, 65, 127, 129, 255, 256, 257]

# The test vectors of Certificate Transparency's reference implementation (merkle_tree_test.cc).
INPUTS = [
    bytes.fromhex(each)
    for each in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def defined(leaves):
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + defined(leaves[:k]) + defined(leaves[k:])).digest()


def defined_path(m, leaves):
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if m < k:
        return [*defined_path(m, leaves[:k]), defined(leaves[k:])]
    return [*defined_path(m - k, leaves[k:]), defined(leaves[:k])]


def data(count):
    return [random.Random(count * 1000 + i).randbytes(i % 70) for i in range(count)]


def test_roots_are_the_published_ones():
    assert root([]) == hashlib.sha256().digest()
    for count, expected in enumerate(ROOTS, 1):
        assert root([leaf_hash(each) for each in INPUTS[:count]]).hex() == expected


@pytest.mark.parametrize("size", SIZES)
def test_roots_and_paths_are_those_that_the_rfc_defines(size):
    leaves = data(size)
    hashes = [leaf_hash(each) for each in leaves]
    assert root(hashes) == defined(leaves)
    for index in range(size):
        assert path(hashes, index) == defined_path(index, leaves)
        assert root_of_path(hashes[index], index, size, path(hashes, index)) == root(hashes)


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_subtrees(size):
    hashes = [leaf_hash(each) for each in data(size)]
    for block in (1, 2, 8, 64):
        blocks = [hashes[i : i + block] for i in range(0, size, block)]
        roots = [root(each) for each in blocks]
        assert root(roots) == root(hashes)
        for index in range(size):
            number, place = divmod(index, block)
            joined = path(blocks[number], place) + path(roots, number)
            assert joined == path(hashes, index)


def reached(leaf, index, size, path):
    try:
        return root_of_path(leaf, index, size, path)
    except ValueError:
        return None


def test_no_path_that_was_changed_leads_to_the_root():
    draw = random.Random(5)
    for size in SIZES:
        hashes = [leaf_hash(each) for each in data(size)]
        index = draw.randrange(size)
        right = path(hashes, index)
        bit = bytearray(hashes[index])
        bit[draw.randrange(32)] ^= 1 << draw.randrange(8)
        wrong = [(bytes(bit), index, size, right)]
        wrong += [(hashes[index], index, size, [*right, bytes(32)])]
        for i in range(len(right)):
            bit = bytearray(right[i])
            bit[draw.randrange(32)] ^= 1 << draw.randrange(8)
            wrong.append((hashes[index], index, size, [*right[:i], bytes(bit), *right[i + 1 :]]))
            wrong.append((hashes[index], index, size, right[:i] + right[i + 1 :]))
            if i and right[i] != right[i - 1]:
                swapped = [*right[: i - 1], right[i], right[i - 1], *right[i + 1 :]]
                wrong.append((hashes[index], index, size, swapped))
        wrong += [(hashes[index], other, size, right) for other in range(size) if other != index]
        wrong += [(hashes[index], index, 2 * size, right), (hashes[index], -1, size, right)]
        if right:  # a node's two halves are no leaf
            halves = leaf_hash(hashes[index] + right[0])
            wrong.append((halves, index >> 1, (size + 1) // 2, right[1:]))
        for each in wrong:
            assert reached(*each) != root(hashes), each


def test_what_is_no_leaf_has_no_path():
    with pytest.raises(IndexError, match="no leaf 3"):
        path([leaf_hash(b"")] * 3, 3)
    with pytest.raises(ValueError, match="no leaf 3"):
        root_of_path(bytes(32), 3, 3, [])
    with pytest.raises(ValueError, match="below the root"):
        root_of_path(bytes(32), 0, 3, [])
    with pytest.raises(ValueError, match="above the root"):
        root_of_path(bytes(32), 0, 1, [bytes(32)])
