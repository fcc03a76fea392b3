"""Megatron-LM's indexed data, written and read from its description, with nothing of ours."""

import struct
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path

import numpy as np

CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write(prefix: Path, documents: Sequence[Sequence[Sequence[int]]], dtype: str) -> Path:
    """Documents of sequences of tokens as `prefix.bin` and `prefix.idx`; returns the latter."""
    sequences = [np.array(each, dtype) for document in documents for each in document]
    sizes = [len(each) for each in sequences]
    before = [0, *accumulate(each.nbytes for each in sequences)][: len(sizes)]
    begins = [0, *accumulate(map(len, documents))]
    prefix.with_suffix(".bin").write_bytes(b"".join(each.tobytes() for each in sequences))
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, CODES[dtype], len(sizes), len(begins))
    lists = np.array(sizes, "<i4"), np.array(before, "<i8"), np.array(begins, "<i8")
    prefix.with_suffix(".idx").write_bytes(head + b"".join(each.tobytes() for each in lists))
    return prefix.with_suffix(".idx")


def read(prefix: Path) -> list[list[int]]:
    """The documents of `prefix.bin` as `prefix.idx` says."""
    index, tokens = (prefix.with_suffix(end).read_bytes() for end in (".idx", ".bin"))
    magic, (version, code, count, documents) = index[:9], struct.unpack("<QBQQ", index[9:34])
    assert (magic, version) == (b"MMIDIDX\0\0", 1)
    dtype = np.dtype({number: name for name, number in CODES.items()}[code])
    sizes = np.frombuffer(index, "<i4", count, 34)
    before = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    begins = np.frombuffer(index, "<i8", documents, 34 + 12 * count)
    assert len(index) == 34 + 12 * count + 8 * documents
    sequences = [
        np.frombuffer(tokens, dtype, size, start).tolist()
        for size, start in zip(sizes.tolist(), before.tolist(), strict=True)
    ]
    return [list(chain(*sequences[begin:end])) for begin, end in pairwise(begins.tolist())]
