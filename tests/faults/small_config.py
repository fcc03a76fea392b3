"""A run of eight steps over a store of ten documents."""

from dataclasses import replace
from pathlib import Path

from small_inputs import config, small_store

from fugaku_jax.config import CheckpointConfig, Config, DataConfig, ModelConfig, TrainingConfig
from fugaku_jax.data.store import Store


def make_config(folder: Path) -> Config:
    """Build the store in a folder, and return a run of it that is saved every three steps."""
    store = Store.open(str(small_store(folder)))
    return replace(
        config(),
        model=ModelConfig(
            vocab_size=store.vocab_size,
            n_layers=1,
            d_model=16,
            n_heads=2,
            sequence_length=16,
            dropout=0.1,
        ),
        training=TrainingConfig(
            steps=8,
            batch_size=4,
            validate_every=0,
            validation_tokens=64,
            sample_tokens=0,
            most_skipped=2,
        ),
        data=DataConfig(store=store.url),
        checkpoint=CheckpointConfig(every=3),
    )
