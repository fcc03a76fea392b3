"""The second model of the Fugaku-LLM project."""

from fugaku_jax.config import CheckpointConfig, Config, ModelConfig, OptimizerConfig, TrainingConfig


def gpt_350m() -> Config:
    """Train GPT-2's medium shape as the project did, on 20 tokens a parameter.

    Expect: 354,215,936 parameters; 7.1e9 tokens in 13,500 steps of 524,288.
    Command: `python launch/train.py gpt_350m --data.store STORE`.
    """
    return Config(
        model=ModelConfig(
            vocab_size=48_586,
            n_layers=24,
            d_model=1024,
            n_heads=16,
            sequence_length=2048,
            dropout=0.1,
            attention_dropout=0.1,
            init_std=0.018,
        ),
        optimizer=OptimizerConfig(
            learning_rate=3e-4, min_learning_rate=1e-6, warmup_tokens=70_000_000
        ),
        training=TrainingConfig(steps=13_500, batch_size=256, micro_batches=128, remat="block"),
        checkpoint=CheckpointConfig(every=250),
    )
