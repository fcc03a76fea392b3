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
from jaxtyping import Float, PyTree, Shaped

from fugaku_jax.config import Config, MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.interop.chunked_arrays import ChunkedArray, ChunkedTree, Index, array_spec
from fugaku_jax.interop.hf_weights import Tensor
from fugaku_jax.models.layout import layout_for_use
from fugaku_jax.models.lora import lora_targets
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
from fugaku_jax.training.storage_order import saved_adapter_types, saved_parameter_types


class SavedWeights:
    """The weights in a run's checkpoint, with the adapters in them that it has learned."""

    def __init__(self, run_dir: Path, step: int | None = None) -> None:
        """Find the checkpoint.

        Args:
            run_dir: the run.
            step: of the checkpoint; the newest if not given.

        Raises:
            InputError: nothing was saved yet, not at this step, or by a later version; the
                configuration cannot be read.
            DamagedCheckpoint: it cannot be read.
        """
        steps = saved_steps(run_dir)
        if not steps:
            raise InputError(f"{run_dir} has no checkpoint yet; train it first.")
        if step not in {None, *steps}:
            there = ", ".join(map(str, steps))
            raise InputError(f"{run_dir} has no checkpoint of step {step}; it has {there}.")
        self.step = steps[-1] if step is None else step
        """Steps that were taken before it was saved."""
        check_format(run_dir, self.step)
        self._run_dir, self._config = run_dir, read_config(run_dir)
        targets = lora_targets(self._config.model, self._config.tuning) if self.step else ()
        self._targets = {(target.kernel, target.part): target for target in targets}
        with self._reading():
            for each in {self.step, self._step_of_weights}:
                check_arrays(run_dir, each)
        self._shapes = _parameter_shapes(replace(self._config, mesh=MeshConfig()))

    @property
    def has_adapters(self) -> bool:
        """Whether it holds adapters, the weights being in the checkpoint of step 0."""
        return bool(self._targets)

    def is_adapted(self, tensor: Tensor) -> bool:
        """Tell whether a tensor of Hugging Face's has an adapter."""
        return tensor.path[-1] == "kernel" and (tensor.path[1], tensor.part) in self._targets

    def read(self, tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        """Read a tensor of Hugging Face's, and no more than the parts of the array that hold it.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        with self._reading():
            weight = tensor.export(self._open(".".join(tensor.path), self._step_of_weights))
        if not self.is_adapted(tensor):
            return weight
        scale = np.float32(self._config.tuning.alpha / self._config.tuning.rank)
        a, b = self.read_adapter(tensor)
        product = (scale * a) @ b
        return weight + (product.T if tensor.transposed else product)

    def read_adapter(
        self, tensor: Tensor
    ) -> tuple[Float[np.ndarray, "I r"], Float[np.ndarray, "r O"]]:
        """Read A and B of a tensor that has an adapter.

        Raises:
            DamagedCheckpoint: they cannot be read.
        """
        target = self._targets[tensor.path[1], tensor.part]
        start = f"blocks.{target.kernel}.{target.name}"
        rank, layer = self._config.tuning.rank, tensor.layer
        with self._reading():
            a, b = (self._open(f"{start}.{name}", self.step) for name in ("lora_a", "lora_b"))
            one_a, one_b = (np.asarray(x[layer]) for x in (a, b))
        return one_a.reshape(-1, rank), one_b.reshape(rank, -1)

    @property
    def _step_of_weights(self) -> int:
        return 0 if self.has_adapters else self.step

    def _open(self, name: str, step: int) -> Any:
        spec = array_spec(_state_of(self._run_dir, step), f"parameters.{name}")
        array = ts.open(spec, open=True).result()
        if array.shape != self._shapes[name]:
            raise ValueError(f"{name} has the shape {array.shape}, not {self._shapes[name]}")
        return array

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
    """Return the shapes of a run's weights and adapters, by their names in a checkpoint."""
    layout = layout_for_use(config)
    adapters = names(saved_adapter_types(layout)) if layout.is_lora else {}
    return names(saved_parameter_types(layout)) | adapters


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
