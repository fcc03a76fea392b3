"""Batches as global arrays: each process reads only the rows that its own shards need."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Float, Integer, Shaped

from fugaku_jax.data.batch import Batch, document_segments
from fugaku_jax.data.marked_batch import marked_batch
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError


class Loader:
    """Iterates over (step, batch), reading ahead in a thread.

    A batch's arrays are global, `[M, B//M, ...]`: row `r` of the step is `[r // (B//M),
    r % (B//M)]`. Close it, or use it as a context manager, to stop before the last step.
    """

    def __init__(
        self,
        store: Store,
        order: SampleOrder,
        batch: Batch,
        start_step: int = 0,
        *,
        stop_step: int,
        prefetch: int = 2,
        reference: Float[np.ndarray, "N"] | None = None,
        prompt_weight: float = 0.0,
    ) -> None:
        """Starts to read.

        Args:
            store: where the tokens are; the training split is read.
            order: which tokens each row holds.
            batch: shapes, types and sharding of what to give. With `segments`, each document of a
                row is one; with `weights`, the store says which tokens are learned.
            start_step: the first step given.
            stop_step: the step before which to end.
            prefetch: batches read ahead.
            reference: of each token of the store's only set, the loss of what predicts it, for a
                batch with `reference`.
            prompt_weight: as `marked_batch`.

        Raises:
            ValueError: the shapes are not those of the order's rows.
            InputError: the sharding does not divide the batch.
        """
        micro_batches, rows, length = batch.tokens.shape
        if (micro_batches * rows, length) != (order.batch_size, order.sequence_length + 1):
            raise ValueError(f"No batch of {batch.tokens.shape} in an order of {order.batch_size}.")
        self._store, self._order, self._batch = store, order, batch
        self._reference, self._prompt_weight = reference, prompt_weight
        try:
            self._needed = _needed_rows(batch.tokens.sharding, batch.tokens.shape)
        except ValueError as error:
            shape = list(batch.tokens.shape)
            raise InputError(f"batch of shape {shape}: {error}") from error
        self.wait_seconds = 0.0  # how long the consumer has waited for batches in all
        self._ready: queue.Queue = queue.Queue(maxsize=max(prefetch, 1))
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(range(start_step, stop_step),), name="loader", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "Loader":
        """The loader itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the loader."""
        self.close()

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        """Gives (step, batch) in order; an error of the reading thread is raised here."""
        while not self._stop.is_set():
            started = time.perf_counter()
            item = self._ready.get()
            self.wait_seconds += time.perf_counter() - started
            if item is None or isinstance(item, BaseException):
                self._stop.set()  # nothing comes after it
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        """Ends the reading thread and drops what it has read. May be called again."""
        self._stop.set()
        while self._thread.is_alive():
            try:  # make room, in case the thread is waiting for some
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.01)

    def _fill(self, steps: range) -> None:
        try:
            for step in steps:
                if self._stop.is_set():
                    return
                self._ready.put((step, self._read_batch(step)))
            self._ready.put(None)
        except BaseException as error:  # the consumer must learn of it, whatever it is
            self._ready.put(error)

    def _read_batch(self, step: int) -> Batch:
        rows = self._read_rows(step)
        if self._batch.weights is not None:
            read = marked_batch(rows, self._prompt_weight)
            read = replace(read, reference=self._read_reference(step))
        elif self._batch.segments is not None:
            read = Batch(rows, segments=document_segments(rows, self._store.end_of_document))
        else:
            read = Batch(rows)
        return jax.tree.map(self._global, self._batch, read)

    def _global(self, like: jax.ShapeDtypeStruct, rows: Shaped[np.ndarray, "N L"]) -> jax.Array:
        """Make the global array of which this process has these rows, those of `_needed`."""

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            return rows[np.searchsorted(self._needed, _rows_of(index, like.shape))]

        return jax.make_array_from_callback(like.shape, like.sharding, shard)

    def _read_reference(self, step: int) -> Float[np.ndarray, "N T"] | None:
        if self._reference is None:
            return None
        starts = self._order.locate(step)[1][self._needed]
        return self._reference[starts[:, None] + np.arange(1, self._order.sequence_length + 1)]

    def _read_rows(self, step: int) -> Integer[np.ndarray, "N T_plus_1"]:
        """The rows this process needs, each read once, in the order of `_needed`."""
        marked = self._batch.weights is not None
        read = self._store.read_marked if marked else self._store.read
        sets, starts, _ = self._order.locate(step)
        sets, starts = sets[self._needed], starts[self._needed]
        length = self._order.sequence_length + 1
        rows = np.empty((len(self._needed), length), np.uint32 if marked else np.int32)
        for index in np.unique(sets):
            mine = sets == index
            rows[mine] = read(int(index), "train", starts[mine], length)
        return rows


def _needed_rows(sharding: jax.sharding.Sharding, shape: tuple[int, int, int]) -> np.ndarray:
    indices = sharding.addressable_devices_indices_map(shape).values()
    return np.unique(np.concatenate([_rows_of(index, shape).ravel() for index in indices]))


def _rows_of(index: tuple[slice, ...] | None, shape: tuple[int, int, int]) -> np.ndarray:
    """The numbers of the rows in a shard, [micro-batches, rows a micro-batch] of the shard."""
    micro_batches, rows, _ = shape
    numbers = np.arange(micro_batches * rows).reshape(micro_batches, rows)
    return numbers if index is None else numbers[index[0], index[1]]
