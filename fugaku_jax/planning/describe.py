"""What a run would be, told without allocating anything."""

from typing import Any

from fugaku_jax.config import Config
from fugaku_jax.models.gpt import flops_per_token, parameter_count


def describe_run(config: Config) -> dict[str, Any]:
    """Return `parameters`, `tokens_per_step`, `steps`, `flops_per_token` and the configuration."""
    return {
        "parameters": parameter_count(config.model),
        "tokens_per_step": config.tokens_per_step,
        "steps": config.training.steps,
        "flops_per_token": flops_per_token(config.model),
        "config": config.to_dict(),
    }
