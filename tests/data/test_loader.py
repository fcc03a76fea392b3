"""The loader gives the rows of the order, reads only what its shards need, and ends cleanly."""

import json
import subprocess
import sys
import textwrap
import threading

import jax
import numpy as np
import pytest

from fugaku_jax.data.batch import Batch
from fugaku_jax.data.loader import Loader
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.errors import InputError

T, B, M = 16, 8, 2


@pytest.fixture
def order(store) -> SampleOrder:
    """An order over the small store."""
    return SampleOrder.of_store(store, T, B, seed=3)


@pytest.fixture
def batch() -> Batch:
    """What to give: all on the first device."""
    return batch_of(M)


def batch_of(micro_batches: int, **segments) -> Batch:
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shape = (micro_batches, B // M, T + 1)
    return Batch(jax.ShapeDtypeStruct(shape, np.int32, sharding=where), **segments)


def loader_threads() -> int:
    """Reading threads that are alive."""
    return sum(thread.name == "loader" for thread in threading.enumerate())


def test_batches_are_the_rows_of_the_order(store, order, batch):
    with Loader(store, order, batch, start_step=5, stop_step=9) as loader:
        batches = dict(loader)
    assert list(batches) == [5, 6, 7, 8]
    for step, given in batches.items():
        tokens = given.tokens
        assert (given.weights, given.segments) == (None, None)
        assert tokens.shape == (M, B // M, T + 1)
        assert tokens.dtype == np.int32
        rows = np.asarray(tokens).reshape(B, T + 1)
        for row, (index, start, _) in enumerate(zip(*order.locate(step), strict=True)):
            expected = store.read(int(index), "train", np.array([start]), T + 1)[0]
            np.testing.assert_array_equal(rows[row], expected)


def test_starting_later_gives_the_same_batches(store, order, batch):
    with Loader(store, order, batch, stop_step=6) as loader:
        whole = dict(loader)
    with Loader(store, order, batch, start_step=4, stop_step=6) as loader:
        for step, given in loader:
            np.testing.assert_array_equal(given.tokens, whole[step].tokens)


def test_an_error_while_reading_reaches_the_consumer(store, order, batch, monkeypatch):
    def fail(*_):
        raise InputError("store x: cannot be read: gone.")

    monkeypatch.setattr(store, "read", fail)
    with (
        Loader(store, order, batch, stop_step=6) as loader,
        pytest.raises(InputError, match="gone"),
    ):
        next(iter(loader))
    assert loader_threads() == 0


def test_leaving_early_leaves_no_thread(store, order, batch):
    loader = Loader(store, order, batch, stop_step=10**6)
    for step, _ in loader:
        if step == 3:
            break
    assert loader_threads() == 1
    loader.close()
    loader.close()
    assert loader_threads() == 0
    assert list(loader) == []


def test_a_finished_loader_gives_nothing_more(store, order, batch):
    with Loader(store, order, batch, stop_step=2) as loader:
        assert len(list(loader)) == 2
        assert list(loader) == []
        assert loader.wait_seconds > 0


def test_a_batch_that_is_not_of_the_orders_size_is_refused(store, order):
    with pytest.raises(ValueError, match="No batch of"):
        Loader(store, order, batch_of(3), stop_step=1)


def test_segments_are_the_documents_of_each_row_if_they_are_asked_for(store, order, batch):
    like = jax.ShapeDtypeStruct((M, B // M, T), np.int32, sharding=batch.tokens.sharding)
    with Loader(store, order, batch_of(M, segments=like), stop_step=4) as loader:
        batches = [given for _, given in loader]
    ends = 0
    for given in batches:
        for row, segments in zip(
            np.asarray(given.tokens).reshape(B, T + 1),
            np.asarray(given.segments).reshape(B, T),
            strict=True,
        ):
            documents = [int((row[:t] == store.end_of_document).sum()) for t in range(T)]
            np.testing.assert_array_equal(segments, documents)
            ends += documents[-1]
    assert ends, "no document ends in any row: nothing was tried"


ON_FOUR_DEVICES = """
    import json, sys
    import jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from fugaku_jax.data import loader as loading
    from fugaku_jax.data.batch import Batch
    from fugaku_jax.data.loader import Loader
    from fugaku_jax.data.order import SampleOrder
    from fugaku_jax.data.store import Store

    store = Store.open(sys.argv[1])
    order = SampleOrder.of_store(store, 16, 8, seed=3)
    mesh = jax.make_mesh((2, 2), ("data", "time"))
    sharding = NamedSharding(mesh, P(None, "data", None))

    read = []
    original = store.read
    def count(index, split, starts, length):
        read.extend(starts.tolist())
        return original(index, split, starts, length)
    store.read = count

    def load(sharding):
        read.clear()
        batch = Batch(jax.ShapeDtypeStruct((2, 4, 17), np.int32, sharding=sharding))
        with Loader(store, order, batch, stop_step=1, prefetch=1) as loader:
            ((_, given),) = loader
        return given.tokens, len(read)

    whole, rows_read = load(sharding)
    single, _ = load(jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    shapes = [list(shard.data.shape) for shard in whole.addressable_shards]
    same = bool((np.asarray(whole) == np.asarray(single)).all())

    class FirstOfTwoHosts:
        '''A sharding of which this process sees the first two devices only.'''
        def addressable_devices_indices_map(self, shape):
            every = sharding.addressable_devices_indices_map(shape)
            return {device: every[device] for device in mesh.devices[0]}

    needed = loading._needed_rows(FirstOfTwoHosts(), (2, 4, 17)).tolist()
    print(json.dumps([rows_read, shapes, same, needed]))
"""


def test_each_row_is_read_once_and_only_by_the_host_that_needs_it(store):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_FOUR_DEVICES), store.url],
        env={
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    rows_read, shapes, same, needed = json.loads(result.stdout)
    assert rows_read == B  # each of four devices holds half of the rows, each row is read once
    assert shapes == [[M, B // M // 2, T + 1]] * 4
    assert same
    # Rows 0 and 1 of both micro-batches: r = m·(B/M) + b.
    assert needed == [0, 1, 4, 5]
