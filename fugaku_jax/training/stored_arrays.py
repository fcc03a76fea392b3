"""What a checkpoint says of its arrays, looked at before TensorStore believes it.

Whoever reads any part of a chunk takes the memory that the chunk's shape asks for, however few
bytes lie on the disk; for more than there is, the process aborts. So no chunk may be larger than
its array, and of what shape that is, whoever reads it knows already.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorstore as ts

from fugaku_jax.json_file import parse_json
from fugaku_jax.json_types import shown


def stored_arrays(folder: Path) -> list[dict[str, Any]]:
    """Return Zarr's metadata of all arrays in a folder of Orbax's, with chunks of a size they have.

    Raises:
        ValueError: what it says of its arrays is damaged, or a chunk is larger than its array.
    """
    place = {"driver": "ocdbt", "base": f"{folder.as_uri()}/"}
    store = ts.KvStore.open(place).result()
    found = []
    for key in store.list().result():
        if key.endswith(b"/zarr.json"):
            name = key.removesuffix(b"/zarr.json").decode(errors="replace")
            metadata = parse_json(store.read(key).result().value, f"the metadata of {name}")
            _check_chunks(name, metadata)
            found.append(metadata)
    return found


def codecs(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield the names of an array's codecs; those of a shard's index are not among them."""
    for codec in _codecs(metadata.get("codecs")):
        yield str(codec.get("name") if isinstance(codec, dict) else codec)


def _check_chunks(name: str, metadata: dict[str, Any]) -> None:
    shape = metadata.get("shape")
    cuts = map(_configuration, (metadata.get("chunk_grid"), *_codecs(metadata.get("codecs"))))
    chunks = [each["chunk_shape"] for each in cuts if "chunk_shape" in each]
    if not chunks or not all(_is_within(chunk, shape) for chunk in chunks):
        raise ValueError(f"{name} of the shape {shown(shape)} is in chunks of {shown(chunks)}")


def _is_within(chunk: Any, shape: Any) -> bool:
    both = (chunk, shape)
    if not all(isinstance(x, list) and all(type(n) is int and n >= 0 for n in x) for x in both):
        return False
    return len(chunk) == len(shape) and all(a <= max(b, 1) for a, b in zip(*both, strict=True))


def _codecs(listed: Any) -> Iterator[Any]:
    """Yield codecs and those within them."""
    for codec in listed if isinstance(listed, list) else ():
        yield codec
        yield from _codecs(_configuration(codec).get("codecs"))


def _configuration(part: Any) -> dict[str, Any]:
    found = part.get("configuration") if isinstance(part, dict) else None
    return found if isinstance(found, dict) else {}
