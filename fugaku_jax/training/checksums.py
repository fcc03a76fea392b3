"""Checksums in the arrays of a checkpoint: a damaged one is an error to whoever reads it.

Behind each chunk of an array stands its CRC-32C, Zarr's codec `crc32c`. It is checked as the chunk
is read, by each process for what it reads, for parts of an array as for the whole, on any mesh, and
by any other reader of Zarr; it costs neither a second pass over the data nor memory. Checksums of
whole files would have to read all of a checkpoint before any of it, and sums that the devices
compute of their arrays could not vouch for a part that is read, or for one cast as it is read.

What is not in a chunk is guarded already: the tree that finds the chunks (OCDBT's nodes and
manifests) carries CRC-32Cs of its own, and a chunk's place in its file does (Zarr's index).

Orbax 0.12 has no option for the codecs of an array: `ArrayOptions.Saving` knows `use_compression`
and the sizes of chunks, no more. So the function in which it lists them, `_build_zarr3_metadata`,
is wrapped, and `crc32c` added to those of the one shard codec that it gives; nothing else changes.
That is not public. So the project asks for the minor version that it was tested with (0.12.8), and
an Orbax that lists codecs in another way is refused before anything is written. `has_checksums`
asks the arrays themselves: should an Orbax no longer call the function, tests fail, and whoever
reads such a checkpoint is warned.
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orbax.checkpoint._src.serialization import tensorstore_utils

from fugaku_jax.errors import RunError
from fugaku_jax.training.stored_arrays import codecs, stored_arrays

CHECKSUM = {"name": "crc32c"}


def check_chunks() -> None:
    """Have Orbax write the checksums of all arrays that this process saves from now on.

    Raises:
        RunError: this version of Orbax lists an array's codecs in another way.
    """
    build = getattr(tensorstore_utils, "_build_zarr3_metadata", None)
    if hasattr(build, "__wrapped__"):
        return
    built = _with_checksums(build)
    try:
        built((1,), (1,), True)
    except (TypeError, ValueError, LookupError) as error:
        version = importlib.metadata.version("orbax-checkpoint")
        raise RunError(
            f"Orbax {version} lays arrays out in a way that is not known here, so nothing is saved "
            "without checksums; install orbax-checkpoint 0.12.8."
        ) from error
    tensorstore_utils._build_zarr3_metadata = built


def has_checksums(folder: Path) -> bool:
    """Tell whether all arrays in a folder of Orbax's carry checksums. Raises as `stored_arrays`."""
    return all("crc32c" in set(codecs(each)) for each in stored_arrays(folder))


def _with_checksums(build: Any) -> Callable[..., dict[str, Any]]:
    def built(*args: Any, **kwargs: Any) -> dict[str, Any]:
        metadata = build(*args, **kwargs)
        (shard,) = metadata["codecs"]
        shard["configuration"]["codecs"].append(CHECKSUM)
        return metadata

    built.__wrapped__ = build  # type: ignore[attr-defined]  # as functools.wraps marks it
    return built
