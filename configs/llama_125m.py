"""LLaMA's layout at the size of GPT-2's smallest."""

from fugaku_jax.config import CheckpointConfig, Config, ModelConfig, OptimizerConfig, TrainingConfig


def llama_125m() -> Config:
    """Train a small LLaMA, three heads of queries to one of keys, on 20 tokens a parameter.

    Expect: 150,227,712 parameters, 113 M without the output matrix; 3.0e9 tokens in 5,731 steps of
    524,288.
    Command: `python launch/train.py llama_125m --data.store STORE`.
    """
    return Config(
        model=ModelConfig(
            vocab_size=48_586,
            n_layers=12,
            d_model=768,
            n_heads=12,
            n_kv_heads=4,
            sequence_length=2048,
            family="llama",
            tied=False,
        ),
        optimizer=OptimizerConfig(
            learning_rate=6e-4, min_learning_rate=6e-5, warmup_tokens=25_000_000
        ),
        training=TrainingConfig(steps=5_731, batch_size=256, micro_batches=64),
        checkpoint=CheckpointConfig(every=250),
    )
