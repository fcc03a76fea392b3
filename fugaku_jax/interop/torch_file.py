"""Read what `torch.save` wrote, without PyTorch, executing nothing and loading no tensor.

PyTorch's own reader (`weights_only`) would have everybody install PyTorch to convert a checkpoint.

A file is a zip archive, stored uncompressed: `data.pkl`, a pickle in which tensors are references,
and the bytes of each storage under `data/`. A pickle names functions to call, which is how reading
one can run anything. Here it is interpreted (`plain_pickle`), only calls of names from a short list
are known, and what they give are stand-ins of our own that do nothing; any other is refused.
Source: https://docs.pytorch.org/docs/stable/notes/serialization.html, `torch/serialization.py`.
"""

import math
import struct
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from fugaku_jax.errors import InputError
from fugaku_jax.interop.plain_pickle import LARGEST, Inert, Name, Namespace, read_pickle
from fugaku_jax.json_types import shown

_ZIP = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<26xHH")
_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_INERT_MODULES = ("megatron", "deepspeed", "numpy", "torch")
"""Whose classes may stand in a checkpoint beside its weights (states of generators, enumerations,
types). None is ever imported: what they would make is an `Inert`."""
_INERT_TORCH = ("Size", "device", "dtype")
_MOST_DIMENSIONS = 64  # as PyTorch has it
_MOST_LETTERS = 300  # of a library's own words


@dataclass(frozen=True)
class TorchTensor:
    """A tensor in a file."""

    path: Path
    offset: int
    """Bytes before its first element."""
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Elements from one to the next along each dimension."""

    def read(self) -> Shaped[np.ndarray, "..."]:
        """Map it into memory; it takes room only while it is looked at and kept."""
        if not all(self.shape):
            return np.empty(self.shape, self.dtype)
        flat = np.memmap(self.path, self.dtype, "r", self.offset, (_reach(self),))
        strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)


@dataclass(frozen=True)
class _Storage:
    path: Path
    offset: int
    dtype: np.dtype
    elements: int


def read_torch_file(path: Path) -> Any:
    """Return what was saved, its tensors as `TorchTensor`.

    Raises:
        InputError: it cannot be read, it is damaged, it is of the format before PyTorch 1.6, or its
            pickle calls what makes anything but tensors and plain data.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                raise InputError(
                    f"{path} is no zip archive, as PyTorch writes it since 1.6; if it is of an "
                    "older format and you trust it, save it again: "
                    f"torch.save(torch.load('{path.name}', weights_only=False), '{path.name}')."
                )
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged archive can raise anything
        said = textwrap.shorten(str(error), _MOST_LETTERS)  # it may hold much of the file
        raise InputError(f"{path} is damaged: {type(error).__name__}: {said}.") from error


def _read(path: Path, archive: zipfile.ZipFile) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(f"{path} was not written by torch.save: it has no data.pkl.")
    root = pickles[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in entries and _content(archive, entries[order], 16) != b"little":
        raise InputError(f"{path} was written on a big-endian machine, which is not supported.")
    data = _content(archive, entries[pickles[0]], LARGEST)
    with path.open("rb") as file:
        contents = _Contents(path, path.stat().st_size, file, entries, root)
        return read_pickle(data, contents.called, contents.referred)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """Return the bytes of an entry, which takes no more memory than the file says it has."""
    _check_stored(entry)
    if entry.file_size > most:
        raise ValueError(f"{entry.filename} has {entry.file_size:,} bytes, {most:,} at most do")
    return archive.read(entry)


def _check_stored(entry: zipfile.ZipInfo) -> None:
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ValueError(f"{entry.filename} is compressed")


@dataclass(frozen=True)
class _Contents:
    """A file's storages, and what calls in its pickle stand for."""

    path: Path
    size: int
    """Bytes of the file."""
    file: IO[bytes]
    entries: Mapping[str, zipfile.ZipInfo]
    root: str
    """What the names of entries begin with."""

    def called(self, function: Name, arguments: tuple[Any, ...]) -> Any:
        """Return our stand-in for what a call gives."""
        name = str(function)
        if name in _CALLS:
            return _CALLS[name](*arguments)
        package = function.module.partition(".")[0]
        if package in _INERT_MODULES and (package != "torch" or function.name in _INERT_TORCH):
            return Inert()
        raise InputError(
            f"{self.path} would have Python call {name:.80}, which no checkpoint needs; it was "
            "not called, and the file is not read."
        )

    def referred(self, pid: Any) -> _Storage:
        """Find a storage in the archive."""
        if type(pid) is not tuple or len(pid) != 5:
            raise ValueError(f"unknown reference {shown(pid)}")
        kind, storage, key, _, elements = pid
        dtype = _STORAGES.get(storage.name) if type(storage) is Name else None
        if kind != "storage" or dtype is None or type(key) is not str or type(elements) is not int:
            raise ValueError(f"unknown reference {shown(pid)}")
        entry = self.entries.get(f"{self.root}data/{key}")
        if entry is None:
            raise ValueError(f"there is no storage {shown(key)}")
        _check_stored(entry)
        self.file.seek(entry.header_offset)
        lengths = _LOCAL_HEADER.unpack(self.file.read(_LOCAL_HEADER.size))
        offset = entry.header_offset + _LOCAL_HEADER.size + sum(lengths)
        if not 0 <= elements * np.dtype(dtype).itemsize <= entry.file_size:
            raise ValueError(f"{entry.filename} is shorter than its tensor")
        if offset + entry.file_size > self.size:
            raise ValueError(f"{entry.filename} is truncated")
        return _Storage(self.path, offset, np.dtype(dtype), elements)


def _tensor(storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> TorchTensor | Inert:
    """Stand in for `torch._utils._rebuild_tensor_v2`; one with more elements than its storage, as
    by `expand`, is no weight, and not looked at."""
    if type(storage) is not _Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise ValueError("a tensor is made of what is none")
    numbers = (start, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor has a shape that is none")
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise ValueError("a tensor has a shape that is none")
    if 0 in shape and math.prod(n or 1 for n in shape) >= 2**60:  # NumPy has no such empty array
        raise ValueError("a tensor has a shape that is none")
    offset = storage.offset + start * storage.dtype.itemsize
    strides = tuple(step * (n > 1) for n, step in zip(shape, strides, strict=True))
    tensor = TorchTensor(storage.path, offset, storage.dtype, shape, strides)
    if math.prod(shape) and start + _reach(tensor) > storage.elements:
        raise ValueError("a tensor leaves its storage")
    return tensor if math.prod(shape) <= storage.elements else Inert()


def _empty() -> dict[Any, Any]:
    """Stand in for `collections.OrderedDict`, whose items are set one by one and checked."""
    return {}


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "collections.OrderedDict": _empty,
    "argparse.Namespace": Namespace,
    "_codecs.encode": lambda *_: Inert(),  # bytes of NumPy's arrays
}


def _reach(tensor: TorchTensor) -> int:
    """Count the elements from a tensor's first to its last in memory."""
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
