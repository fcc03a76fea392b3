"""The weights in a checkpoint, read and written piece by piece rather than as a whole."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from jaxtyping import PyTree, Shaped

from fugaku_jax.config import Config, MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.chunked_arrays import ChunkedArray, ChunkedTree, Index, array_spec
from fugaku_jax.interop.hf_weights import Tensor
from fugaku_jax.models.layout import layout_for_use
from fugaku_jax.run.checkpoint_folder import checkpoint_folder, saved_steps
from fugaku_jax.run.configuration import read_config
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.checkpoint_reading import (
    STATE,
    DamagedCheckpoint,
    check_arrays,
    check_format,
    names,
    reason,
)
from fugaku_jax.training.saving_options import CHUNK_BYTES
from fugaku_jax.training.storage_order import saved_parameter_types


class SavedWeights:
    """The parameters in a run's newest checkpoint."""

    def __init__(self, run_dir: Path) -> None:
        """Find the checkpoint.

        Raises:
            InputError: nothing was saved yet, or by a later version; the configuration cannot be
                read.
            DamagedCheckpoint: it cannot be read.
        """
        steps = saved_steps(run_dir)
        if not steps:
            raise InputError(f"{run_dir} has no checkpoint yet; train it first.")
        self.step = steps[-1]
        """Steps that were taken before it was saved."""
        check_format(run_dir, self.step)
        self._run_dir, self._state = run_dir, _state_of(run_dir, self.step)
        with self._reading():
            check_arrays(run_dir, self.step)
        self._shapes = _parameter_shapes(replace(read_config(run_dir), mesh=MeshConfig()))

    def read(self, tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        """Read a tensor of Hugging Face's, and no more than the parts of the array that hold it.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        name = ".".join(tensor.path)
        with self._reading():
            array = ts.open(array_spec(self._state, f"parameters.{name}"), open=True).result()
            if array.shape != self._shapes[name]:
                raise ValueError(f"{name} has the shape {array.shape}, not {self._shapes[name]}")
            return tensor.export(array)

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

    Args:
        run_dir: the run.
        shapes: of the parameters, nested dictionaries.
        part: gives a part of the parameter of a path and a shape.
        identity: what the numbers mean, as JSON can hold it.
    """

    def leaf(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> ChunkedArray:
        names = tuple(key.key for key in path)
        chunk = _chunk(shape, stacked=names[0] == "blocks")
        return ChunkedArray(shape, chunk, lambda index: part(names, shape.shape, index))

    parameters = jax.tree.map_with_path(leaf, shapes)
    with RunCheckpoints(run_dir) as checkpoints:
        checkpoints.save_parameters(ChunkedTree({"parameters": parameters}), identity)


@functools.cache
def _parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's parameters, by their names in a checkpoint."""
    return names(saved_parameter_types(layout_for_use(config)))


def _state_of(run_dir: Path, step: int) -> Path:
    """Return the folder of the arrays, as Orbax names it."""
    return checkpoint_folder(run_dir, step) / STATE


def _chunk(leaf: jax.ShapeDtypeStruct, stacked: bool) -> tuple[int, ...]:
    """Cut an array so that a layer is read without the others, and none is large."""
    chunk = [1, *leaf.shape[1:]] if stacked else list(leaf.shape)
    for dimension in range(len(chunk)):
        while chunk[dimension] > 1 and np.prod(chunk) * leaf.dtype.itemsize > CHUNK_BYTES:
            chunk[dimension] = -(-chunk[dimension] // 2)
    return tuple(chunk)
