"""Compile what gathers a model for use, for 64 replicas that share each weight; print its groups.

Run by `test_whole_model.py`: `python gathered_groups.py`.
"""

import json

import jax

from fugaku_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.models.layout import make_layout
from fugaku_jax.planning.compiled_collectives import collectives_of
from fugaku_jax.training.state import abstract_state
from fugaku_jax.training.whole_model import _gathered


def main() -> None:
    """Compile, and print how many members the collectives' groups have."""
    config = Config(
        model=ModelConfig(vocab_size=64, n_layers=2, d_model=64, n_heads=2, sequence_length=64),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=64),
        mesh=MeshConfig(data=64, shape="8x8x1x1x1x1", weights="fsdp"),
    )
    layout = make_layout(config, jax.devices())
    with layout.active():
        lowered = _gathered.lower(layout, abstract_state(layout).parameters)
        text = lowered.compile().as_text()
    found = collectives_of(text, dict(layout.mesh.shape))
    print(json.dumps([(row.kind, row.members) for row in found]))


if __name__ == "__main__":
    main()
