"""Train on two layouts in one process: alternately, in two threads, or each alone.

Run by `test_layouts.py`, since the number of emulated devices is fixed when JAX starts:
`python two_layouts.py OUT.json HOW`. The losses and gradient norms of each are written as they are.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from first_steps import END_OF_DOCUMENT, lay_out

from fugaku_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.batch import Batch, document_segments
from fugaku_jax.layout.layout import Layout
from fugaku_jax.training.state import init_state
from fugaku_jax.training.step import make_train_step

STEPS = 3
MESHES = {
    "replicas": MeshConfig(data=2, tensor=2, weights="zero1"),
    "stages": MeshConfig(data=1, pipeline=2, context=2),
}


def layout_of(name: str) -> Layout:
    """Lay the run out on the mesh of a name."""
    return lay_out(
        Config(
            model=ModelConfig(
                vocab_size=64, n_layers=2, d_model=16, n_heads=2, sequence_length=16, dropout=0.1
            ),
            optimizer=OptimizerConfig(learning_rate=1e-2),
            training=TrainingConfig(steps=STEPS, batch_size=4, micro_batches=2),
            mesh=MESHES[name],
        )
    )


def figures(name: str) -> Iterator[tuple[float, float]]:
    """Yield the loss and the gradient's norm of one step after the other."""
    layout = layout_of(name)
    state, step = init_state(layout), make_train_step(layout)
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        tokens = random.integers(0, 64, (2, 2, 17), np.int32)
        batch = Batch(tokens)
        if layout.batch.segments is not None:
            batch = Batch(tokens, segments=document_segments(tokens, END_OF_DOCUMENT))
        state, metrics = step(state, jax.device_put(batch, layout.rows))
        yield float(metrics["loss"]), float(metrics["grad_norm"])


def main() -> None:
    """Train as asked."""
    how, names = sys.argv[2], tuple(MESHES)
    if how == "alternately":
        found = dict(
            zip(names, zip(*zip(*map(figures, names), strict=True), strict=True), strict=True)
        )
    elif how == "threads":
        with ThreadPoolExecutor(len(names)) as threads:
            found = dict(zip(names, threads.map(lambda n: list(figures(n)), names), strict=True))
    else:
        found = {how: list(figures(how))}
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
