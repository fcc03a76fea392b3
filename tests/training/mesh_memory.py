"""Compile the step on meshes of emulated devices and save what each device needs, in bytes.

Run by `test_mesh_memory.py`: `python mesh_memory.py OUT.json`. Nothing is trained.
"""

import json
import math
import sys

import jax
from meshes import make_config

from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.state import abstract_state
from fugaku_jax.training.step import make_train_step

# Long enough that activations outweigh the rest of what is temporary.
MODEL = {
    "vocab_size": 128,
    "n_layers": 2,
    "d_model": 48,
    "n_heads": 4,
    "sequence_length": 128,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
ROWS = 4
"""Samples of a micro-batch on each device."""
# Mesh, micro-batches.
CASES = {
    "gpipe, 4": ({"pipeline": 2, "schedule": "gpipe"}, 4),
    "gpipe, 8": ({"pipeline": 2, "schedule": "gpipe"}, 8),
    "1f1b, 4": ({"pipeline": 2, "schedule": "1f1b"}, 4),
    "1f1b, 8": ({"pipeline": 2, "schedule": "1f1b"}, 8),
    "tensor": ({"tensor": 4}, 1),
    "tensor, sequence": ({"tensor": 4, "sequence_parallel": True}, 1),
    "data 2": ({"data": 2, "weights": "zero1"}, 1),
    "data 4": ({"data": 4, "weights": "zero1"}, 1),
}


def measure(mesh: dict, micro_batches: int) -> dict[str, int]:
    """Return the bytes of a device's arguments and temporaries, and of its moments' parts."""
    mesh = {"data": 1} | mesh
    rows = ROWS * mesh["data"]
    training = {"micro_batches": micro_batches, "batch_size": micro_batches * rows, "remat": "none"}
    config = make_config(mesh, MODEL, training)
    count = math.prod(mesh.get(kind, 1) for kind in ("data", "tensor", "pipeline"))
    layout = make_layout(config, jax.devices()[:count])

    def on_mesh(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = jax.NamedSharding(layout.mesh, leaf.sharding.spec if leaf.sharding else jax.P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    state = jax.tree.map(on_mesh, abstract_state(layout))
    step = make_train_step(layout).lower(state, layout.batch)
    memory = step.compile({"xla_cpu_use_fusion_emitters": True}).memory_analysis()  # as in a run
    per_device = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * 4  # noqa: E731
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "moments": sum(map(per_device, jax.tree.leaves(state.moments))),
        "weights": sum(map(per_device, jax.tree.leaves(state.parameters))),
        "tokens": per_device(layout.batch.tokens),
    }


def main() -> None:
    """Measure every case."""
    found = {name: measure(*case) for name, case in CASES.items()}
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
