"""Tokens that other programs have made: Megatron-LM's `.bin` and `.idx`, and NumPy's `.npy`.

They are read a part at a time, and nothing is executed: a pickle in a `.npy` is refused. What a
header says is held to the size of its file first.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from fugaku_jax.errors import InputError

ENDINGS = (".idx", ".npy")
_NUMPY = b"\x93NUMPY"
# The header is an expression of Python's; two fields are looked for, and nothing is evaluated.
_DESCR = re.compile(rb"'descr'\s*:\s*'([!-&(-~]{1,20})'")
_SHAPE = re.compile(rb"'shape'\s*:\s*\(([0-9, ]{1,99})\)")
_MOST_HEADER = 1 << 12
_MAGIC = b"MMIDIDX\0\0"
_HEAD = struct.Struct("<9sQBQQ")  # magic, version, data type, sequences, entries of the documents
_DTYPES = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # by Megatron's codes
_FLOATS = (6, 7)
_KNOWN = {*_DTYPES.values(), "<u4", "<u8"}
_DOCUMENTS = 1 << 16  # looked at together
_TOKENS = 1 << 20  # likewise


@dataclass(frozen=True)
class Place:
    """Where tokens lie one after the other in a file."""

    path: str  # absolute
    dtype: str  # as NumPy writes it: "<u2"
    offset: int  # bytes before the first

    @property
    def item_bytes(self) -> int:
        """The bytes of a token."""
        return np.dtype(self.dtype).itemsize

    def check(self, count: int) -> None:
        """Raises InputError if the file is gone, is no file, or has not so many tokens."""
        path = Path(self.path)
        if self.dtype not in _KNOWN or min(self.offset, count) < 0:
            raise InputError(f"tokens {path!s:.500}: of a kind that no token file has.")
        size, end = _size(path), self.offset + count * self.item_bytes
        if size < end:
            raise InputError(
                f"tokens {path}: the file has {size:,} bytes, but {count:,} tokens end at byte "
                f"{end:,}; put the whole file back."
            )

    def read(self, first: int, count: int) -> Integer[np.ndarray, " N"]:
        """Tokens of the file; fewer if it has been cut since. Not mapped, as a cut would kill then.

        Raises:
            InputError: the file cannot be read.
        """
        offset = self.offset + first * self.item_bytes
        try:
            return np.fromfile(self.path, self.dtype, count, offset=offset)
        except OSError as error:
            raise InputError(f"tokens {self.path}: cannot be read: {error.strerror}.") from error


class TokenFile:
    """The tokens of a file and the documents they are."""

    def __init__(self, path: Path, place: Place, count: int) -> None:
        """Args: the file that was given, where its tokens lie, and how many. Use `open`."""
        self.path, self.place, self.count = path, place, count
        place.check(count)

    @staticmethod
    def open(path: Path) -> "TokenFile":
        """Opens an `.idx`, whose `.bin` lies beside it, or a `.npy`. Reads its header only.

        Raises:
            InputError: it is no such file, or says what cannot be.
        """
        return (_Indexed if path.name.lower().endswith(".idx") else _Numpy).open(path)

    def bounds(self, end_of_document: int) -> Iterator[Int64[np.ndarray, " D_plus_1"]]:
        """Where documents begin, and the last ends, for some at a time; none of them is empty.

        Raises:
            InputError: what is said of them cannot be.
        """
        raise NotImplementedError


class _Numpy(TokenFile):
    """One array of tokens, in which the end-of-document token ends documents."""

    @staticmethod
    def open(path: Path) -> "_Numpy":
        size = _size(path)
        with path.open("rb") as file:
            start = file.read(12)
            long = start[6:7] > b"\1"  # of its second version on, the header's length has 32 bits
            file.seek(0)
            head = file.read(_MOST_HEADER)
        length = int.from_bytes(start[8:12] if long else start[8:10], "little")
        offset = length + (12 if long else 10)
        dtype, shape = _DESCR.search(head[:offset]), _SHAPE.search(head[:offset])
        if not start.startswith(_NUMPY) or offset > len(head) or not dtype or not shape:
            raise InputError(f"input {path}: this is no `.npy` file of tokens.")
        kind, sizes = dtype[1].decode(), [int(each) for each in re.findall(rb"\d+", shape[1])]
        if len(sizes) != 1 or kind not in _KNOWN:
            raise InputError(
                f"input {path}: holds {kind} of shape {sizes}; tokens are one dimension of whole "
                "numbers, little endian."
            )
        end = offset + sizes[0] * np.dtype(kind).itemsize
        if size != end:
            raise InputError(
                f"input {path}: the file has {size:,} bytes where its header says {end:,}."
            )
        return _Numpy(path, Place(str(path.absolute()), kind, offset), sizes[0])

    def bounds(self, end_of_document: int) -> Iterator[Int64[np.ndarray, " D_plus_1"]]:
        last = 0
        for first in range(0, self.count, _TOKENS):
            part = self.place.read(first, min(_TOKENS, self.count - first))
            ends = first + 1 + np.flatnonzero(part == end_of_document)
            if len(ends):
                yield np.concatenate([[last], ends]).astype(np.int64)
                last = int(ends[-1])
        if last < self.count:  # the rest ends with no such token
            yield np.array([last, self.count], np.int64)


class _Indexed(TokenFile):
    """A `.bin`, whose sequences and documents an `.idx` lists (Megatron-LM `indexed_dataset.py`).

    After the head: int32 lengths of the sequences, int64 bytes before each of them, and the int64
    numbers of the sequences that begin documents, then the number of all sequences.
    """

    @staticmethod
    def open(path: Path) -> "_Indexed":
        size = _size(path)
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
        if len(head) < _HEAD.size or not head.startswith(_MAGIC):
            raise InputError(f"input {path}: this is no `.idx` of Megatron-LM's.")
        _, version, code, sequences, documents = _HEAD.unpack(head)
        if version != 1:
            raise InputError(f"input {path}: has format version {version}, this program reads 1.")
        if code not in _DTYPES:
            kind = "floats, which are no tokens" if code in _FLOATS else "of no known type"
            raise InputError(f"input {path}: says by data type {code} that its tokens are {kind}.")
        wanted = _HEAD.size + 12 * sequences + 8 * documents
        if size != wanted or documents < 1:
            raise InputError(
                f"input {path}: the file has {size:,} bytes where {sequences:,} sequences and "
                f"{documents:,} entries for documents need {wanted:,}; it is cut short or no "
                "list of tokens."
            )
        dtype = np.dtype(_DTYPES[code])
        binary = path.with_suffix(".bin")
        count, rest = divmod(_size(binary), dtype.itemsize)
        if rest:
            raise InputError(
                f"input {binary}: the size is no multiple of the {dtype.itemsize} bytes of a token."
            )
        found = _Indexed(path, Place(str(binary.absolute()), dtype.str, 0), count)
        found._sequences, found._documents = sequences, documents
        return found

    _sequences: int
    _documents: int

    def bounds(self, end_of_document: int) -> Iterator[Int64[np.ndarray, " D_plus_1"]]:
        del end_of_document  # the file says where they end
        offsets = self._list("<i8", _HEAD.size + 4 * self._sequences, self._sequences)
        self._check_sequences(offsets)
        begins = self._list("<i8", _HEAD.size + 12 * self._sequences, self._documents)
        if int(begins[0]) != 0 or int(begins[-1]) != self._sequences:
            raise InputError(
                f"input {self.path}: its documents are sequences {begins[0]} to {begins[-1]} of 0 "
                f"to {self._sequences}."
            )
        size = self.place.item_bytes
        for first in range(0, self._documents - 1, _DOCUMENTS):
            part = np.array(begins[first : first + _DOCUMENTS + 1], np.int64)
            bad = (np.diff(part) < 0) | (part[:-1] < 0) | (part[1:] > self._sequences)
            if bad.any():
                at = int(np.argmax(bad))
                raise InputError(
                    f"input {self.path}: document {first + at} goes from sequence {part[at]} to "
                    f"{part[at + 1]} of {self._sequences}, which cannot be."
                )
            inside = np.minimum(part, max(self._sequences - 1, 0))
            tokens = offsets[inside] // size if self._sequences else np.zeros_like(part)
            tokens = np.where(part == self._sequences, self.count, tokens)
            tokens = tokens[np.concatenate([[True], np.diff(tokens) > 0])]  # none that is empty
            if len(tokens) > 1:
                yield tokens

    def _check_sequences(self, offsets: Int64[np.ndarray, " S"]) -> None:
        """Raises InputError unless the sequences fill the `.bin`, one after the other."""
        lengths = self._list("<i4", _HEAD.size, self._sequences)
        end, size = 0, self.place.item_bytes
        for first in range(0, self._sequences, _DOCUMENTS):
            some = np.array(lengths[first : first + _DOCUMENTS], np.int64)
            ends = end + size * np.cumsum(some)
            begins, said = ends - size * some, offsets[first : first + _DOCUMENTS]
            bad = (some < 0) | (begins != said) | (ends > size * self.count)
            if bad.any():
                at = int(np.argmax(bad))
                length, begin = int(some[at]), int(said[at])
                why = f"of {length} tokens from byte {begin:,}"
                if length >= 0 and 0 <= begin <= size * self.count - size * length:
                    why += f", not from byte {begins[at]:,} where the one before ends"
                else:
                    why += f" of a `.bin` of {size * self.count:,} bytes, which cannot be"
                raise InputError(f"input {self.path}: sequence {first + at} is {why}.")
            end = int(ends[-1])
        if end != size * self.count:
            raise InputError(
                f"input {self.path}: its sequences have {end:,} bytes, but "
                f"{self.place.path} has {size * self.count:,}."
            )

    def _list(self, dtype: str, offset: int, count: int) -> Integer[np.ndarray, " N"]:
        if not count:
            return np.empty(0, dtype)
        return np.memmap(self.path, dtype, "r", offset, (count,))


def _size(path: Path) -> int:
    """The bytes of a file. Raises InputError when there is none."""
    if not path.is_file():
        raise InputError(f"input {path!s:.500}: there is no such file.")
    return path.stat().st_size
