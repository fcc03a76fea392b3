"""The same model in PyTorch: that of `transformers` with the weights of ours.

The padding rows of our embedding have no counterpart.
"""

import functools
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from jaxtyping import Array
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fugaku_jax.config import ModelConfig
from fugaku_jax.interop.hf_weights import tensors
from fugaku_jax.models.gpt import GPT


def flat(params: nnx.State) -> dict[str, Array]:
    """Name each parameter by its path, e.g. `blocks.qkv.kernel`, stacked over layers."""
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(params))
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def in_torch(params: nnx.State, config: ModelConfig) -> Any:
    """Return the `transformers` model with these weights, in fp32, without dropout."""
    hf = (_llama if config.family == "llama" else _gpt2)(config)
    parameters, ours = dict(hf.named_parameters()), flat(params)
    assert {tensor.name for tensor in tensors(config)} == parameters.keys()
    with torch.no_grad():
        for tensor in tensors(config):
            array = tensor.export(np.asarray(ours[".".join(tensor.path)]))
            parameters[tensor.name].copy_(torch.from_numpy(array.copy()))
    return hf


def torch_gradients(hf: Any, params: nnx.State, config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the gradients `hf` has gathered, named and shaped as `flat(params)`.

    Padding rows of the embedding, which `hf` does not have, get 0.
    """
    parameters = dict(hf.named_parameters())
    result = {name: np.zeros(value.shape, value.dtype) for name, value in flat(params).items()}
    for tensor in tensors(config):
        gradient = parameters[tensor.name].grad
        assert gradient is not None
        tensor.load(gradient.numpy(), into=result[".".join(tensor.path)])
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


def _gpt2(config: ModelConfig) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.sequence_length,
            n_embd=config.d_model,
            n_layer=config.n_layers,
            n_head=config.n_heads,
            n_inner=config.feed_forward,
            activation_function="gelu_new",
            layer_norm_epsilon=config.layer_norm_epsilon,
            tie_word_embeddings=config.tied,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
        )
    )


def _llama(config: ModelConfig) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.sequence_length,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.feed_forward,
            rms_norm_eps=config.layer_norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
            attn_implementation="eager",
        )
    )
