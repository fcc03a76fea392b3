"""What LoRA is, written out."""

import jax.numpy as jnp
import numpy as np

from fugaku_jax.config import Config
from fugaku_jax.models.lora import lora_targets


def with_products(config: Config, weights, adapters):
    """The weights plus alpha / rank times A B, a layer and a matrix at a time."""
    blocks, scale = dict(weights["blocks"]), config.tuning.alpha / config.tuning.rank
    for target in lora_targets(config.model, config.tuning):
        pair = adapters["blocks"][target.kernel][target.name]
        pairs = zip(pair["lora_a"], pair["lora_b"], strict=True)
        product = scale * jnp.stack([jnp.tensordot(a, b, 1) for a, b in pairs])
        kernel = blocks[target.kernel]["kernel"]
        place = slice(None) if target.part is None else np.s_[:, :, target.part]
        blocks[target.kernel] = blocks[target.kernel] | {"kernel": kernel.at[place].add(product)}
    return weights | {"blocks": blocks}
