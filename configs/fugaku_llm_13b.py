"""Fugaku-LLM itself."""

from fugaku_jax.config import (
    CheckpointConfig,
    Config,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)


def fugaku_llm_13b() -> Config:
    """Train the 13B model as it was trained on 13,824 nodes of Fugaku in 2024.

    Expect: 13,167,577,728 parameters; 400e9 tokens in 96,881 steps of 4,128,768. The batch is
    2016 samples: 7 micro-batches of 288, one a replica. The vocabulary is padded to 49,152, a
    multiple of 128 x 6, as its 6-way tensor parallelism wanted. 8 stages of 5 layers follow each
    other by 1F1B; the first four, which have most micro-batches in flight, keep only their inputs
    and recompute their layers in the backward pass, as the original's did.
    See: `python launch/plan.py fugaku_llm_13b`.
    Command: `python launch/train.py fugaku_llm_13b --data.store STORE`, on the whole machine. On
    another one override the mesh: `--mesh.shape "" --mesh.data -1 --mesh.tensor ...`.
    """
    return Config(
        model=ModelConfig(
            vocab_size=48_586,
            n_layers=40,
            d_model=5184,
            n_heads=36,
            sequence_length=2048,
            dropout=0.1,
            attention_dropout=0.1,
            init_std=0.008,
            vocab_multiple=768,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4,
            min_learning_rate=1e-6,
            warmup_tokens=4_000_000_000,
            decay_tokens=400_000_000_000,
        ),
        training=TrainingConfig(
            steps=96_881,
            batch_size=2016,
            micro_batches=7,
            validate_every=100,
            validation_tokens=10 * 2016 * 2048,
        ),
        mesh=MeshConfig(
            data=288,
            tensor=6,
            pipeline=8,
            shape="48x6x48:torus:strict-io",
            schedule="1f1b",
            recompute_stages=4,
        ),
        checkpoint=CheckpointConfig(every=250),
    )
