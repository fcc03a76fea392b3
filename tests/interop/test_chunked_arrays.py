"""What is written chunk by chunk is a checkpoint that Orbax alone reads, onto any devices."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.interop import saved_weights
from fugaku_jax.interop.saved_weights import write_weights
from fugaku_jax.run.checkpoint_folder import checkpoint_folder, named_steps

SHAPES = {
    "blocks": {"up": jax.ShapeDtypeStruct((3, 8, 10), np.float32)},
    "table": jax.ShapeDtypeStruct((1000, 12), np.float32),
}

# Knows nothing of this project: what a reader of Orbax's documentation would write.
READER = """
import json, pathlib, sys
import jax, numpy as np
import orbax.checkpoint.experimental.v1 as ocp

folder = pathlib.Path(sys.argv[1])
mesh = jax.make_mesh((2, 2), ("x", "y"))
place = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
wanted = {
    "blocks": {"up": jax.ShapeDtypeStruct((3, 8, 10), np.float32, sharding=place(None, "x", "y"))},
    "table": jax.ShapeDtypeStruct((1000, 12), np.float16, sharding=place(("x", "y"), None)),
}
plain = ocp.load_checkpointables(folder, {"state": None})["state"]["parameters"]
split = ocp.load_checkpointables(folder, {"state": {"parameters": wanted}})["state"]["parameters"]
for name, x, y, target in zip(
    ("up", "table"), *map(jax.tree.leaves, (plain, split, wanted)), strict=True
):
    assert y.sharding == target.sharding and y.dtype == target.dtype
    assert len({str(shard.index) for shard in y.addressable_shards}) == 4
    np.testing.assert_array_equal(np.asarray(y), np.asarray(x, target.dtype))
    print(json.dumps([name, type(x).__name__, str(x.dtype), np.asarray(x).tolist()]))
largest = max((folder / "state" / "d").iterdir(), key=lambda file: file.stat().st_size)
content = bytearray(largest.read_bytes())
content[len(content) // 2] ^= 1
largest.write_bytes(content)
try:
    ocp.load_checkpointables(folder, {"state": None})
except Exception as error:
    while error.__cause__:
        error = error.__cause__
    print(json.dumps(str(error)))
assert "fugaku_jax" not in sys.modules
"""


def whole(shape):
    """All of an array: each number once."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.slow
def test_orbax_alone_reads_it_whole_and_split_and_sees_a_flipped_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_weights, "CHUNK_BYTES", 8000)
    largest = []

    def part(_names, shape, index):
        made = whole(shape)[index]
        largest.append(made.nbytes)
        return made

    write_weights(tmp_path, SHAPES, part, {"config": {}})
    assert max(largest) <= 8000
    assert len(largest) == 3 + 8  # three layers, and 1,000 rows halved three times
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", READER, checkpoint_folder(tmp_path, 0)],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    *arrays, damage = map(json.loads, done.stdout.splitlines())
    assert [each[:3] for each in arrays] == [[n, "ndarray", "float32"] for n in ("up", "table")]
    for (*_, found), shape in zip(arrays, jax.tree.leaves(SHAPES), strict=True):
        np.testing.assert_array_equal(np.float32(found), whole(shape.shape))
    assert "parameters.table" in damage
    assert "Digest mismatch" in damage


def test_what_goes_wrong_while_a_part_is_made_comes_up_and_leaves_no_checkpoint(tmp_path):
    def part(*_):
        raise InputError("The tensor is damaged.")

    with pytest.raises(InputError, match="The tensor is damaged"):
        write_weights(tmp_path, SHAPES, part, {"config": {}})
    assert not named_steps(tmp_path)
