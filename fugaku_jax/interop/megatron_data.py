"""Writes the tokens of a store as Megatron-LM reads them (`indexed_dataset.py`)."""

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from fugaku_jax.data.store import SplitName, Store
from fugaku_jax.errors import InputError
from fugaku_jax.run.whole_file import is_full, replace_file

_CODES = {"<u2": 8, "<i4": 4}
_PART = 1 << 20  # tokens or documents at a time
_LONGEST = 2**31 - 1  # tokens of a sequence


def write_indexed(store: Store, folder: Path, split: SplitName) -> list[Path]:
    """Writes `<set>.bin` and `<set>.idx` for each set that has documents, each whole or not at all.

    A document is one sequence. Tokens have 16 bits where the vocabulary is below 65,500, else 32.
    The `.idx` is taken away first and comes last, so that none stands beside another's `.bin`.

    Args:
        store: what to write.
        folder: where to; it is made if it is not there.
        split: which side.

    Returns:
        The `.idx` files.

    Raises:
        InputError: a set has a name that no file can have, a document is too long, the split has no
            document, or the folder cannot be written.
    """
    written, dtype = [], "<u2" if store.vocab_size < 65_500 else "<i4"
    for number, each in enumerate(store.sets):
        if Path(each.name).name != each.name or "\0" in each.name:
            raise InputError(f"set {each.name:.200}: no file can have this name.")
        if not getattr(each, split).documents:
            continue
        index = folder / f"{each.name}.idx"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            index.unlink(missing_ok=True)
            where = store, number, split
            tokens = partial(_write_tokens, where=where, dtype=dtype)
            replace_file(folder / f"{each.name}.bin", tokens)
            replace_file(index, partial(_write_index, where=where, dtype=dtype))
        except OSError as error:
            if is_full(error):
                raise
            raise InputError(f"--out {folder} cannot be written: {error.strerror}.") from error
        written.append(index)
    if not written:
        raise InputError(f"store {store.url}: its {split} split has no document.")
    return written


def _write_tokens(file: Any, where: tuple[Store, int, SplitName], dtype: str) -> None:
    _write_all(file, _tokens(*where), dtype)


def _write_index(file: Any, where: tuple[Store, int, SplitName], dtype: str) -> None:
    store, number, split = where
    documents = getattr(store.sets[number], split).documents
    file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, _CODES[dtype], documents, documents + 1))
    _write_all(file, _column(*where, "length"), "<i4")
    item = np.dtype(dtype).itemsize
    starts = _column(*where, "start")
    _write_all(file, (item * part for part in starts), "<i8")
    firsts = range(0, documents + 1, _PART)
    begins = (np.arange(first, min(first + _PART, documents + 1)) for first in firsts)
    _write_all(file, begins, "<i8")


def _write_all(file: Any, parts: Iterator[Integer[np.ndarray, " N"]], dtype: str) -> None:
    for part in parts:
        file.write(part.astype(dtype).tobytes())


def _tokens(store: Store, number: int, split: SplitName) -> Iterator[Integer[np.ndarray, " N"]]:
    count = getattr(store.sets[number], split).tokens
    for first in range(0, count, _PART):
        yield store.read(number, split, np.array([first]), min(_PART, count - first))[0]


def _column(
    store: Store, number: int, split: SplitName, name: str
) -> Iterator[Int64[np.ndarray, " N"]]:
    for table in store.documents(number, split).tables([name]):
        values = table[name].to_numpy()
        if name == "length" and len(values) and values.max() > _LONGEST:
            raise InputError(
                f"store {store.url}: a document has {values.max():,} tokens, but a sequence of "
                f"Megatron's has at most {_LONGEST:,}."
            )
        yield values
