"""Keyed permutations of 0…n−1 that need no table and can be inverted.

A Feistel network over the smallest 2^b ≥ n, walked until it lands below n ("cycle walking":
Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). The mixing function is the
finaliser of splitmix64 (Steele et al., OOPSLA 2014). Made for shuffling, not for secrecy.
"""

import numpy as np
from jaxtyping import Int64, UInt64

_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def make_key(seed: int, set_index: int, epochs: Int64[np.ndarray, "N"]) -> UInt64[np.ndarray, "N"]:
    """A 64-bit key for each epoch of a set under a seed (any integer)."""
    base = np.array([seed & _MASK], np.uint64)
    base = _mix(_mix(base) ^ np.uint64((set_index + 1) * _GOLDEN & _MASK))
    return _mix(base ^ _mix(epochs.astype(np.uint64) + np.uint64(_GOLDEN)))


def permute(
    index: Int64[np.ndarray, "N"], size: int, key: UInt64[np.ndarray, "N"]
) -> Int64[np.ndarray, "N"]:
    """The image of each index in 0…size−1 under the permutation of its key."""
    return _walk(index, size, key, range(_ROUNDS))


def unpermute(
    image: Int64[np.ndarray, "N"], size: int, key: UInt64[np.ndarray, "N"]
) -> Int64[np.ndarray, "N"]:
    """The index whose image each is: `permute` inverted."""
    return _walk(image, size, key, range(_ROUNDS - 1, -1, -1))


def _walk(index: np.ndarray, size: int, key: np.ndarray, rounds: range) -> np.ndarray:
    bits = max((size - 1).bit_length(), 2)
    value = _network(index.astype(np.uint64), bits, key, rounds)
    outside = np.flatnonzero(value >= size)
    while len(outside):
        value[outside] = _network(value[outside], bits, key[outside], rounds)
        outside = outside[value[outside] >= size]
    return value.astype(np.int64)


def _network(value: np.ndarray, bits: int, key: np.ndarray, rounds: range) -> np.ndarray:
    low_bits = np.uint64(bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits - bits // 2)) - np.uint64(1)
    low, high = value & low_mask, value >> low_bits
    for number in rounds:
        # A round changes one half by what the other half says, so it is its own inverse.
        round_key = key + np.uint64((number + 1) * _GOLDEN & _MASK)
        if number % 2:
            low = low ^ (_mix(high ^ round_key) & low_mask)
        else:
            high = high ^ (_mix(low ^ round_key) & high_mask)
    return (high << low_bits) | low


def _mix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
