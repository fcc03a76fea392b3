"""What a checkpoint says of its arrays takes no memory before it is checked."""

import json
import re

import pytest
import tensorstore as ts
import zstandard
from fuzz_targets import saved_weights
from small_inputs import config

from fugaku_jax.errors import RunError
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.metrics import peak_memory_bytes
from fugaku_jax.training.checkpoint import RunCheckpoints

NAME = "parameters.norm.scale"
MEGABYTE = 1 << 20
HUGE = 1 << 28
"""Elements: one gigabyte. Of 2**40 the process would die."""


@pytest.fixture
def hostile(tmp_path):
    """A checkpoint, how one array of it is described otherwise, and what reads it."""
    state, read_weights = saved_weights(tmp_path)
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"{state.as_uri()}/"}).result()
    metadata = json.loads(store.read(f"{NAME}/zarr.json").result().value)
    layout = make_layout(config())

    def describe(change):
        store.write(f"{NAME}/zarr.json", json.dumps(metadata | change).encode()).result()
        data = zstandard.compress(bytes(64 * MEGABYTE))
        store.write(f"{NAME}/c/0", data).result()

    def restore():
        RunCheckpoints(tmp_path / "run").restore_parameters(layout)

    return describe, (read_weights, restore)


def grid(*chunk):
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


def sharded(*chunk):
    inner = {"chunk_shape": list(chunk), "codecs": [{"name": "bytes"}]}
    return {"name": "sharding_indexed", "configuration": inner | {"index_codecs": ["bytes"]}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"chunk_grid": grid(1 << 40)}, "is in chunks of [[1099511627776]]"),
        ({"chunk_grid": grid(HUGE)}, f"is in chunks of [[{HUGE}]]"),
        ({"chunk_grid": grid(16, 1)}, "is in chunks of [[16, 1]]"),
        ({"chunk_grid": grid(-1)}, "is in chunks of [[-1]]"),
        ({"chunk_grid": {"name": "regular"}}, "is in chunks of []"),
        ({"codecs": [sharded(HUGE)]}, f"is in chunks of [[16], [{HUGE}]]"),
        ({"shape": [HUGE], "chunk_grid": grid(HUGE)}, "shape"),
        ({"shape": [1 << 40], "chunk_grid": grid(1 << 40)}, "shape"),
    ],
    ids=["2**40", "1 GB", "dimensions", "negative", "none", "of a shard", "array", "huge array"],
)
def test_an_array_or_a_chunk_of_another_size_is_an_error_that_takes_no_memory(
    change, sentence, hostile
):
    describe, readers = hostile
    describe(change)
    for read in readers:
        before = peak_memory_bytes()
        with pytest.raises(RunError, match=f"checkpoints/0 is damaged: .*{re.escape(sentence)}"):
            read()
        assert peak_memory_bytes() < before + 256 * MEGABYTE


def test_a_chunk_that_is_longer_than_it_says_takes_no_memory_either(hostile):
    describe, readers = hostile
    describe({"codecs": [{"name": "bytes"}, {"name": "zstd"}]})
    for read in readers:
        before = peak_memory_bytes()
        with pytest.raises(RunError, match="checkpoints/0 is damaged"):
            read()
        assert peak_memory_bytes() < before + 32 * MEGABYTE
