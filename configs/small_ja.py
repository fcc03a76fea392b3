"""A Japanese-first model for a laptop evening."""

from fugaku_jax.config import CheckpointConfig, Config, ModelConfig, OptimizerConfig, TrainingConfig


def small_ja() -> Config:
    """Train 9,720,320 parameters with a vocabulary as large as Fugaku-LLM's.

    Expect: held-out Japanese at 2.10 bits a byte and English at 2.14 after 3M tokens (740 steps) of
    novels and manuals (docs/measurements.md), at about 1,000 tokens/s on 2 slow cores.
    Meant for a store of your own, built with the tokenizer llm-jp v2.2 or any other of at most
    48,586 pieces; without `--data.store` it learns the built-in corpus.
    Command: `python launch/train.py small_ja --data.store STORE`.
    """
    return Config(
        model=ModelConfig(
            vocab_size=48_586, n_layers=6, d_model=160, n_heads=5, sequence_length=512
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-3, min_learning_rate=3e-4, warmup_tokens=200_000
        ),
        training=TrainingConfig(
            steps=2000, batch_size=8, validate_every=200, validation_tokens=32_768, sample_every=200
        ),
        checkpoint=CheckpointConfig(every=200),
    )
