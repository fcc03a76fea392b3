"""Read safetensors files without loading them: a checked header, and tensors mapped into memory.

A header is believed only after it is checked: its length before anything is allocated for it, and
each tensor's place against its shape and the size of the file. Not by the package `safetensors`: it
gives NumPy a copy of a tensor, never the file's own pages, and none of its errors names a tensor.
Source: https://github.com/huggingface/safetensors, "Format".
"""

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.errors import InputError
from fugaku_jax.interop.safetensors_shards import DTYPES, INDEX
from fugaku_jax.json_file import LARGEST, parse_json, read_json
from fugaku_jax.json_types import shown

SINGLE = "model.safetensors"
_DTYPES = dict(DTYPES.values())
_MOST_DIMENSIONS = 64  # as NumPy has it


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    path: Path
    offset: int
    """Bytes before it in the file."""
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> Shaped[np.ndarray, "..."]:
        """Map it into memory; it takes room only while it is looked at and kept."""
        if not all(self.shape):
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Find all tensors of a model directory, in one file or in shards that an index names.

    Raises:
        InputError: there are none, a shard is missing, or a header is damaged.
    """
    index = folder / INDEX
    if not index.exists():
        if not (folder / SINGLE).exists():
            raise InputError(
                f"{folder} has neither {SINGLE} nor {INDEX}; weights are read from safetensors."
            )
        return read_header(folder / SINGLE)
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f"{index} cannot be read as an index of shards: it has no weight_map.")
    found: dict[str, StoredTensor] = {}
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            raise InputError(f"{index} names {shown(name)}, which is no file of {folder}.")
        if not os.path.isfile(folder / name):  # false also of names that no file can have
            raise InputError(f"{folder} is incomplete: {INDEX} names {name:.80}, which is missing.")
        found |= read_header(folder / name)
    absent = [f"{name} (in {file})" for name, file in files.items() if name not in found]
    if absent:
        raise InputError(f"{folder} is incomplete: its shards have no {', '.join(absent[:3])}.")
    return found


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Find the tensors of a file.

    Raises:
        InputError: it cannot be read, or its header is truncated, too long, or does not fit it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise InputError(f"{path} is truncated: it has {size} bytes, and no header.")
            (length,) = struct.unpack("<Q", start)
            if length > min(size - 8, LARGEST):
                raise InputError(
                    f"{path} is damaged or truncated: it says that its header has {length:,} "
                    f"bytes, but the file has {size:,}, and no header more than "
                    f"{LARGEST:,}."
                )
            data = file.read(length)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    header = parse_json(data, f"{path} is damaged: its header")
    header.pop("__metadata__", None)
    return _checked(path, header, 8 + length, size)


def _checked(path: Path, header: dict[str, Any], base: int, size: int) -> dict[str, StoredTensor]:
    """Check that the tensors lie one behind another, up to the end of the file."""
    found: dict[str, StoredTensor] = {}
    end = 0
    try:
        entries = [(*each["data_offsets"], name, each) for name, each in header.items()]
        for start, stop, name, each in sorted(entries, key=lambda entry: entry[:2]):
            shape = tuple(each["shape"])
            if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
                raise ValueError(f"{name} has a size that is no number")
            empty_too_large = 0 in shape and math.prod(n or 1 for n in shape) >= 2**60
            if len(shape) > _MOST_DIMENSIONS or empty_too_large:
                raise ValueError(f"{name} has a shape that no array has")
            if each["dtype"] not in _DTYPES:
                raise InputError(
                    f"{path}: {name} is of type {each['dtype']}, but it must be "
                    f"{', '.join(_DTYPES)}."
                )
            dtype = _DTYPES[each["dtype"]]
            count = 1
            for n in shape:
                count *= n  # of Python's numbers, which do not overflow
            if start != end or stop - start != count * dtype.itemsize:
                raise ValueError(f"{name} does not lie where its shape and the others' say")
            found[name] = StoredTensor(path, base + start, dtype, shape)
            end = stop
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged: its header is wrong: {error}.") from error
    if base + end != size:
        raise InputError(
            f"{path} is truncated or damaged: its header tells of {base + end:,} bytes, and it "
            f"has {size:,}."
        )
    return found
