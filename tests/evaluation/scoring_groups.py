"""Compile what validation scores windows by, for 16 emulated devices; print its collectives.

Run by `test_perplexity.py`: `python scoring_groups.py`. Eight replicas lie along two axes.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
from flax import nnx

from fugaku_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.batch import Batch
from fugaku_jax.evaluation.perplexity import _summed_nats
from fugaku_jax.models.layout import make_layout, whole
from fugaku_jax.planning.compiled_collectives import collectives_of

LENGTH, ROWS = 8, 16


def main() -> None:
    """Compile, and print the mesh and the collectives as JSON."""
    model = ModelConfig(
        vocab_size=64, n_layers=2, d_model=16, n_heads=2, sequence_length=LENGTH, dropout=0.0
    )
    config = Config(
        model=model,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=ROWS),
        mesh=MeshConfig(data=8, tensor=2, shape="4x2x2x1x1x1"),
    )
    layout = make_layout(config, jax.devices())

    def on_mesh(shape: tuple[int, ...], dtype: type, spec: jax.P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(layout.mesh, spec))

    for_use = whole(layout)
    weights = jax.tree.map(
        lambda x, place: on_mesh(x.shape, x.dtype, place.explicit),
        for_use.shapes,
        for_use.placements,
    )
    structure, weights = nnx.split(nnx.merge(for_use.structure, weights))
    rows = layout.rules.spec("batch", None)
    batch = Batch(
        on_mesh((ROWS, LENGTH + 1), jnp.int32, rows), on_mesh((ROWS, LENGTH), jnp.float32, rows)
    )
    with layout.active():
        text = _summed_nats.lower(structure, weights, batch).compile().as_text()
    mesh = dict(layout.mesh.shape)
    found = [dataclasses.asdict(row) for row in collectives_of(text, mesh)]
    print(json.dumps({"mesh": mesh, "data": layout.rules.data, "collectives": found}))


if __name__ == "__main__":
    main()
