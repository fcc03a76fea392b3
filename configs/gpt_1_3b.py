"""The third model of the Fugaku-LLM project."""

from fugaku_jax.config import CheckpointConfig, Config, ModelConfig, OptimizerConfig, TrainingConfig


def gpt_1_3b() -> Config:
    """Train GPT-3's 1.3B shape as the project did, on 20 tokens a parameter.

    Expect: 1,312,411,648 parameters; 26e9 tokens in 25,000 steps of 1,048,576.
    Command: `python launch/train.py gpt_1_3b --data.store STORE`, on many nodes.
    """
    return Config(
        model=ModelConfig(
            vocab_size=48_586,
            n_layers=24,
            d_model=2048,
            n_heads=16,
            sequence_length=2048,
            dropout=0.1,
            attention_dropout=0.1,
            init_std=0.013,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-4, min_learning_rate=1e-6, warmup_tokens=260_000_000
        ),
        training=TrainingConfig(steps=25_000, batch_size=512, micro_batches=512, remat="block"),
        checkpoint=CheckpointConfig(every=250),
    )
