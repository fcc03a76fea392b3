"""The same model in PyTorch: `transformers.GPT2LMHeadModel` with the weights of ours.

Hugging Face's `Conv1D` keeps its kernel as [in, out], and QKV as [D, 3 * H * K], so a reshape is
all that a weight needs. The padding rows of our embedding have no counterpart.
"""

import functools

import jax
import numpy as np
import torch
from flax import nnx
from jaxtyping import Array
from transformers import GPT2Config, GPT2LMHeadModel

from fugaku_jax.config import ModelConfig
from fugaku_jax.models.gpt import GPT

_BLOCK = {
    "attention_norm.scale": "ln_1.weight",
    "attention_norm.bias": "ln_1.bias",
    "qkv.kernel": "attn.c_attn.weight",
    "qkv.bias": "attn.c_attn.bias",
    "attention_output.kernel": "attn.c_proj.weight",
    "attention_output.bias": "attn.c_proj.bias",
    "feed_forward_norm.scale": "ln_2.weight",
    "feed_forward_norm.bias": "ln_2.bias",
    "up.kernel": "mlp.c_fc.weight",
    "up.bias": "mlp.c_fc.bias",
    "down.kernel": "mlp.c_proj.weight",
    "down.bias": "mlp.c_proj.bias",
}
_OUTER = {
    "tokens.table": "transformer.wte.weight",
    "positions.table": "transformer.wpe.weight",
    "norm.scale": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}


def flat(params: nnx.State) -> dict[str, Array]:
    """Name each parameter by its path, e.g. `blocks.qkv.kernel`, stacked over layers."""
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(params))
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def in_torch(params: nnx.State, config: ModelConfig) -> GPT2LMHeadModel:
    """Return the `transformers` model with these weights, in fp32, without dropout."""
    hf = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.sequence_length,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            n_inner=config.feed_forward,
            activation_function="gelu_new",
            layer_norm_epsilon=config.layer_norm_epsilon,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
        )
    )
    parameters = dict(hf.named_parameters())
    with torch.no_grad():
        for name, value in flat(params).items():
            ours = np.asarray(value)
            if name == "tokens.table":
                ours = ours[: config.vocab_size]
            for target, array in _targets(name, ours):
                shape = parameters[target].shape
                parameters[target].copy_(torch.from_numpy(array.reshape(tuple(shape)).copy()))
    return hf


def torch_gradients(hf: GPT2LMHeadModel, params: nnx.State) -> dict[str, np.ndarray]:
    """Return the gradients `hf` has gathered, named and shaped as `flat(params)`.

    Padding rows of the embedding, which `hf` does not have, get 0.
    """
    parameters = dict(hf.named_parameters())

    def gradient(target: str) -> np.ndarray:
        grad = parameters[target].grad
        assert grad is not None
        return grad.numpy()

    result = {}
    for name, value in flat(params).items():
        parts = [gradient(target) for target, _ in _targets(name, np.asarray(value))]
        if name == "tokens.table":
            parts = [np.pad(parts[0], ((0, len(value) - len(parts[0])), (0, 0)))]
        stacked = np.stack(parts) if name.startswith("blocks.") else parts[0]
        result[name] = stacked.reshape(value.shape)
    return result


@functools.cache
def randomised(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Split a model whose every weight is random, biases and norms too, and which no rule of
    initialisation shaped. NumPy makes the numbers, since compiling nothing is quickest."""
    random = np.random.default_rng(0)

    def draw(path: tuple[object, ...], leaf: jax.ShapeDtypeStruct) -> Array:
        centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        values = random.normal(centre, 0.05, leaf.shape).astype(np.float32)
        return jax.device_put(values, leaf.sharding.spec)

    shapes = jax.eval_shape(functools.partial(GPT, config), jax.random.key(0))
    graphdef, params = nnx.split(shapes)
    return graphdef, jax.tree.map_with_path(draw, params)


def _targets(name: str, value: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if name in _OUTER:
        return [(_OUTER[name], value)]
    theirs = _BLOCK[name.removeprefix("blocks.")]
    return [(f"transformer.h.{layer}.{theirs}", value[layer]) for layer in range(len(value))]
