"""The first run: no download, no waiting."""

from fugaku_jax.config import CheckpointConfig, Config, ModelConfig, OptimizerConfig, TrainingConfig


def tiny() -> Config:
    """Train 1.2M parameters on the built-in corpus.

    Expect: 1,152,128 parameters; 0.7M tokens in about two minutes on 2 slow cores, to 1.03
    bits a byte of held-out text.
    Command: `python launch/train.py tiny`.
    """
    return Config(
        model=ModelConfig(vocab_size=4096, n_layers=3, d_model=128, n_heads=4, sequence_length=256),
        optimizer=OptimizerConfig(learning_rate=3e-3, min_learning_rate=3e-4, warmup_tokens=80_000),
        training=TrainingConfig(
            steps=180, batch_size=16, validate_every=60, validation_tokens=16_384, sample_every=60
        ),
        checkpoint=CheckpointConfig(every=60),
    )
