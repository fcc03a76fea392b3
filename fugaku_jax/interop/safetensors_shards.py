"""Write tensors to safetensors files one at a time, so that none but one is ever in memory.

A file is the length of its header (8 bytes, little endian), the header, which is JSON and says
where each tensor lies, and the tensors. Sizes are known before any of them is read, so the headers
and the cut in shards are too. The package `safetensors` writes only tensors that are all in memory.
Source: https://github.com/huggingface/safetensors, "Format".
"""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

DTYPES = {
    "float32": ("F32", np.dtype(np.float32)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float16": ("F16", np.dtype(np.float16)),
}
"""Names of types, and what the format and NumPy call them."""
INDEX = "model.safetensors.index.json"
_ALIGNMENT = 8


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is to be written."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Shaped[np.ndarray, "..."]]
    """Gives the tensor, of that shape, when it is its turn."""

    @property
    def size(self) -> int:
        """How many values it has."""
        return int(np.prod(self.shape, dtype=np.int64))


def write_shards(
    folder: Path, tensors: Sequence[LazyTensor], dtype: str, shard_bytes: int
) -> list[str]:
    """Write all tensors, and an index if one file does not hold them.

    Args:
        folder: where the files go.
        tensors: all of them, in the order in which they are read and lie.
        dtype: the type that all of them are written in, one of `DTYPES`.
        shard_bytes: most bytes of tensors in a file, unless a single one is larger.

    Returns:
        the names of the files.
    """
    width = DTYPES[dtype][1].itemsize
    shards: list[list[LazyTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size * width > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size * width
    count = len(shards)
    names = [f"model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
    names = names if count > 1 else ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, shard, dtype)
    if count > 1:
        files = {tensor.name: n for n, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.size for tensor in tensors) * width
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return names


def write_tensors(path: Path, tensors: Sequence[LazyTensor], dtype: str) -> None:
    """Write a single file; arguments as of `write_shards`."""
    name, numpy_dtype = DTYPES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.size * numpy_dtype.itemsize
        header[tensor.name] = {"dtype": name, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.read(), numpy_dtype)
            assert values.shape == tensor.shape, tensor.name
            file.write(values.view(np.uint8).data if values.size else b"")
