"""The shape that a recipe's model takes over from weights that are already there."""

from dataclasses import replace

from fugaku_jax.config import ModelConfig

_OF_THE_RECIPE = ("dropout", "attention_dropout", "init_std")
"""Fields of the model that change neither what its weights mean nor how they are shaped."""


def shaped_like(model: ModelConfig, weights: ModelConfig, *free: str) -> ModelConfig:
    """Return a recipe's model in the shape of given weights.

    The length of its samples stays the recipe's where positions are rotary.

    Args:
        model: of the recipe.
        weights: what the weights are.
        free: further fields that stay the recipe's.
    """
    kept = (*_OF_THE_RECIPE, *free)
    if weights.family == "llama":
        kept += ("sequence_length",)
    return replace(weights, **{name: getattr(model, name) for name in kept})
