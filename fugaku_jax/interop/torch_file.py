"""Read what `torch.save` wrote, without PyTorch, executing nothing and loading no tensor.

A file is a zip archive, stored uncompressed: `data.pkl`, a pickle in which tensors are references,
and the bytes of each storage under `data/`. A pickle names functions to call, which is how reading
one can run anything. Here only names from a short list are known, and what they give are stand-ins
of our own that do nothing; any other name is refused.
Source: https://docs.pytorch.org/docs/stable/notes/serialization.html, `torch/serialization.py`.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from fugaku_jax.errors import InputError

LARGEST_PICKLE = 100_000_000
"""Most bytes of a pickle; without its tensors that of a large model has a few hundred thousand."""
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
_INERT_TORCH = ("Size", "device", "dtype", "float16", "float32", "bfloat16", "float64", "int64")


class Inert:
    """Stands for an object that is not looked at."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take whatever the object was made of."""

    def __setstate__(self, state: Any) -> None:
        """Forget whatever it was."""


class Namespace:
    """Stands for `argparse.Namespace`; its attributes are what was saved."""

    def __setstate__(self, state: Any) -> None:
        """Take the attributes."""
        self.__dict__.update({str(name): value for name, value in dict(state).items()})


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
            pickle names anything but tensors and plain data.
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
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path} is damaged: {type(error).__name__}: {error}.") from error


def _read(path: Path, archive: zipfile.ZipFile) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(f"{path} was not written by torch.save: it has no data.pkl.")
    root = pickles[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in entries and archive.read(order) != b"little":
        raise InputError(f"{path} was written on a big-endian machine, which is not supported.")
    if entries[pickles[0]].file_size > LARGEST_PICKLE:
        raise InputError(f"{path} is damaged: its data.pkl is larger than {LARGEST_PICKLE:,}.")
    content = io.BytesIO(archive.read(pickles[0]))
    return _Unpickler(content, path, entries, root).load()


class _Unpickler(pickle.Unpickler):
    """Knows the names of tensors and plain data, and no other."""

    def __init__(
        self, file: io.BytesIO, path: Path, entries: dict[str, zipfile.ZipInfo], root: str
    ) -> None:
        super().__init__(file)
        self._path, self._entries, self._root = path, entries, root

    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for a name."""
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("argparse", "Namespace"): Namespace,
            ("_codecs", "encode"): Inert,  # bytes of NumPy's arrays
        }
        if (module, name) in known:
            return known[module, name]
        package = module.partition(".")[0]
        if package in _INERT_MODULES and (package != "torch" or name in _INERT_TORCH):
            return Inert
        raise InputError(
            f"{self._path} would have Python call {module}.{name}, which no checkpoint needs; it "
            "was not called, and the file is not read."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Find a storage in the archive."""
        kind, dtype, key, _, elements = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ValueError(f"unknown reference {pid!r}")
        entry = self._entries[f"{self._root}data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename} is compressed")
        with self._path.open("rb") as file:
            file.seek(entry.header_offset)
            lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        offset = entry.header_offset + _LOCAL_HEADER.size + sum(lengths)
        if elements < 0 or elements * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} is shorter than its tensor")
        if offset + entry.file_size > self._path.stat().st_size:
            raise ValueError(f"{entry.filename} is truncated")
        return _Storage(self._path, offset, dtype, elements)

    def _tensor(
        self,
        storage: _Storage,
        start: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: Any,
    ) -> TorchTensor:
        """Stand in for `torch._utils._rebuild_tensor_v2`."""
        numbers = (start, *shape, *strides)
        if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) != len(strides):
            raise ValueError("a tensor has a shape that is none")
        offset = storage.offset + start * storage.dtype.itemsize
        tensor = TorchTensor(storage.path, offset, storage.dtype, tuple(shape), tuple(strides))
        if math.prod(shape) and start + _reach(tensor) > storage.elements:
            raise ValueError("a tensor leaves its storage")
        return tensor


def _parameter(tensor: TorchTensor, *_: Any) -> TorchTensor:
    """Stand in for `torch._utils._rebuild_parameter`."""
    return tensor


def _reach(tensor: TorchTensor) -> int:
    """Count the elements from a tensor's first to its last in memory."""
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
