"""What a run would be, told without allocating anything."""

from typing import Any

import jax

from fugaku_jax.config import Config
from fugaku_jax.layout.mesh import abstract_mesh
from fugaku_jax.models.gpt import flops_per_token, parameter_count


def describe_run(config: Config) -> dict[str, Any]:
    """Return `parameters`, `tokens_per_step`, `steps`, `flops_per_token` and the configuration."""
    mesh = jax.sharding.get_abstract_mesh()
    with jax.sharding.use_abstract_mesh(abstract_mesh() if mesh.empty else mesh):
        parameters = parameter_count(config.model)
    return {
        "parameters": parameters,
        "tokens_per_step": config.tokens_per_step,
        "steps": config.training.steps,
        "flops_per_token": flops_per_token(config.model),
        "config": config.to_dict(),
    }
