"""The weights in a checkpoint, read and written piece by piece rather than as a whole."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jaxtyping import PyTree, Shaped

from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_weights import Tensor
from fugaku_jax.run.checkpoint_folder import checkpoint_folder, saved_steps
from fugaku_jax.training.checkpoint import CHUNK_BYTES, RunCheckpoints
from fugaku_jax.training.checkpoint_reading import (
    STATE,
    DamagedCheckpoint,
    reason,
    warn_without_checksums,
)
from fugaku_jax.training.checksums import CHECKSUM

Index = tuple[slice, ...]


class SavedWeights:
    """The parameters in a run's newest checkpoint."""

    def __init__(self, run_dir: Path) -> None:
        """Find the checkpoint.

        Raises:
            InputError: nothing was saved yet.
            DamagedCheckpoint: it cannot be read.
        """
        steps = saved_steps(run_dir)
        if not steps:
            raise InputError(f"{run_dir} has no checkpoint yet; train it first.")
        self.step = steps[-1]
        """Steps that were taken before it was saved."""
        self._run_dir, self._state = run_dir, _state_of(run_dir, self.step)
        with self._reading():
            warn_without_checksums(run_dir, self.step)

    def read(self, tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        """Read a tensor of Hugging Face's, and no more than the parts of the array that hold it.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        with self._reading():
            return tensor.export(ts.open(_spec(self._state, tensor.path), open=True).result())

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # damage comes up as an error of any kind
            raise DamagedCheckpoint(self._run_dir, self.step, reason(error)) from error


def write_weights(
    run_dir: Path,
    shapes: PyTree[jax.ShapeDtypeStruct],
    part: Callable[[tuple[str, ...], tuple[int, ...], Index], Shaped[np.ndarray, "..."]],
    identity: dict[str, Any],
) -> None:
    """Write a checkpoint of step 0 that never was in memory as a whole.

    Orbax saves it with arrays of one element; each is then replaced by one of its true shape, which
    is written chunk by chunk, and Orbax's record of the shapes is put right.

    Args:
        run_dir: the run.
        shapes: of the parameters, nested dictionaries.
        part: gives a part of the parameter of a path and a shape.
        identity: what the numbers mean, as JSON can hold it.
    """
    with RunCheckpoints(run_dir) as checkpoints:
        frame = jax.tree.map(lambda x: jnp.zeros((1,) * x.ndim, x.dtype), shapes)
        checkpoints.save_parameters(frame, identity)
    state = _state_of(run_dir, 0)
    for path, leaf in jax.tree.leaves_with_path(shapes):
        names = tuple(key.key for key in path)
        chunk = _chunk(leaf, stacked=names[0] == "blocks")
        spec = _spec(state, names) | _layout(leaf, chunk)
        array = ts.open(spec, create=True, delete_existing=True).result()
        for index in _pieces(leaf.shape, chunk):
            array[index].write(part(names, leaf.shape, index)).result()
    _record_shapes(state, shapes)


def _state_of(run_dir: Path, step: int) -> Path:
    """Return the folder of the arrays, as Orbax names it."""
    return checkpoint_folder(run_dir, step) / STATE


def _spec(state: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Say where TensorStore finds a parameter, as Orbax names it."""
    path = ".".join(("parameters", *names))
    place = {"driver": "ocdbt", "base": f"{state.as_uri()}/", "path": f"{path}/"}
    return {"driver": "zarr3", "kvstore": place}


def _layout(leaf: jax.ShapeDtypeStruct, chunk: tuple[int, ...]) -> dict[str, Any]:
    """Say how TensorStore makes an array anew; compressed and checked as those of Orbax."""
    zstd = {"name": "zstd", "configuration": {"level": 3}}
    return {
        "metadata": {
            "shape": leaf.shape,
            "data_type": leaf.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "codecs": [{"name": "bytes"}, zstd, CHECKSUM],
        },
        "store_data_equal_to_fill_value": True,  # Orbax takes what is missing for damage
    }


def _chunk(leaf: jax.ShapeDtypeStruct, stacked: bool) -> tuple[int, ...]:
    """Cut an array so that a layer is read without the others, and none is large."""
    chunk = [1, *leaf.shape[1:]] if stacked else list(leaf.shape)
    for dimension in range(len(chunk)):
        while chunk[dimension] > 1 and np.prod(chunk) * leaf.dtype.itemsize > CHUNK_BYTES:
            chunk[dimension] = -(-chunk[dimension] // 2)
    return tuple(chunk)


def _pieces(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[Index]:
    starts = (range(0, size, step) for size, step in zip(shape, chunk, strict=True))
    for start in itertools.product(*starts):
        stops = (min(a + n, size) for a, n, size in zip(start, chunk, shape, strict=True))
        yield tuple(slice(a, b) for a, b in zip(start, stops, strict=True))


def _record_shapes(state: Path, shapes: PyTree[jax.ShapeDtypeStruct]) -> None:
    metadata = json.loads((state / "_METADATA").read_text())
    for path, leaf in jax.tree.leaves_with_path(shapes):
        entry = metadata["tree_metadata"][str(("parameters", *(key.key for key in path)))]
        entry["value_metadata"]["write_shape"] = leaf.shape
    (state / "_METADATA").write_text(json.dumps(metadata))
    shutil.rmtree(state / "array_metadatas")  # each process's record of the same shapes
