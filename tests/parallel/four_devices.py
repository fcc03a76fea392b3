"""Compute masks, a loss and its gradients on meshes of one and of four devices, and save them.

Run by `test_devices.py`, since the number of emulated devices is fixed when JAX starts.
"""

import sys

import jax
import numpy as np
from flax import nnx

from fugaku_jax.config import MeshConfig, ModelConfig
from fugaku_jax.kernels import attention
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.layout.mesh import active, make_mesh
from fugaku_jax.layout.rules import Rules
from fugaku_jax.models.gpt import GPT

CONFIG = ModelConfig(
    vocab_size=97,
    n_layers=2,
    d_model=32,
    n_heads=2,
    sequence_length=12,
    dropout=0.1,
    attention_dropout=0.1,
)


def results(rules: Rules) -> dict[str, np.ndarray]:
    """Compute on the mesh that is active."""
    random = np.random.default_rng(0)
    stream = random.integers(0, CONFIG.vocab_size, (4, 13), np.int32)
    structure, shapes = nnx.split(jax.eval_shape(lambda: GPT(CONFIG, jax.random.key(0), rules)))
    # Any weights will do, and NumPy's need no compilation.
    parameters = jax.tree.map(
        lambda leaf: jax.device_put(
            random.normal(0, 0.05, leaf.shape).astype(leaf.dtype), leaf.sharding.spec
        ),
        shapes,
    )
    tokens, targets = (
        jax.device_put(x, rules.spec("batch", "sequence")) for x in (stream[:, :-1], stream[:, 1:])
    )

    @jax.jit
    @jax.value_and_grad
    def loss(parameters):
        model = nnx.merge(structure, parameters)
        hidden = model(tokens, dropout=Dropout(jax.random.key(7), 12), remat="products")
        return model.loss(hidden, targets)[0]

    value, gradients = loss(parameters)
    found = {"loss": value, "rows": [s.data.shape[0] for s in tokens.addressable_shards]}
    for path, gradient in jax.tree.leaves_with_path(nnx.to_pure_dict(gradients)):
        found[f"gradient/{jax.tree_util.keystr(path, simple=True, separator='.')}"] = gradient
    for axis in ("batch", None):
        cut = rules.spec(axis, "sequence", "embed")
        ones = jax.device_put(np.ones((4, 6, 32), np.float32), cut)
        found[f"dropout/{axis}"] = Dropout(jax.random.key(3), 6).hidden(ones, 0.3)
    return {name: np.asarray(value) for name, value in found.items()}


def main() -> None:
    """Save everything under `1/...` and `4/...`."""
    attention.MIN_BLOCK = 6  # so that the twelve positions are two blocks of queries
    saved = {}
    for count in (1, 4):
        mesh, rules = make_mesh(MeshConfig(), jax.devices()[:count])
        with active(mesh):
            saved |= {f"{count}/{name}": value for name, value in results(rules).items()}
    np.savez(sys.argv[1], **saved)


main()
