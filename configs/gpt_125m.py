"""The smallest model of the Fugaku-LLM project."""

from fugaku_jax.config import CheckpointConfig, Config, ModelConfig, OptimizerConfig, TrainingConfig


def gpt_125m() -> Config:
    """Train GPT-2's smallest shape as the project did, on 20 tokens a parameter.

    Expect: 123,984,384 parameters; 2.5e9 tokens in 4,729 steps of 524,288.
    Command: `python launch/train.py gpt_125m --data.store STORE`.
    """
    return Config(
        model=ModelConfig(
            vocab_size=48_586,
            n_layers=12,
            d_model=768,
            n_heads=12,
            sequence_length=2048,
            dropout=0.1,
            attention_dropout=0.1,
            init_std=0.013,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-4, min_learning_rate=1e-6, warmup_tokens=25_000_000
        ),
        training=TrainingConfig(steps=4_729, batch_size=256, micro_batches=64),
        checkpoint=CheckpointConfig(every=250),
    )
