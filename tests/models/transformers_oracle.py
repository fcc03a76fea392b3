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
from transformers import AutoConfig, AutoModelForCausalLM

from fugaku_jax.config import ModelConfig
from fugaku_jax.interop.hf_config import to_hf_config
from fugaku_jax.interop.hf_weights import tensors
from fugaku_jax.models.gpt import GPT


def flat(params: nnx.State) -> dict[str, Array]:
    """Name each parameter by its path, e.g. `blocks.qkv.kernel`, stacked over layers."""
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(params))
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def in_torch(params: nnx.State, config: ModelConfig) -> Any:
    """Return the `transformers` model with these weights, in fp32, without dropout."""
    fields = AutoConfig.for_model(**to_hf_config(config, 0, [0], "float32"))
    hf = AutoModelForCausalLM.from_config(fields, attn_implementation="eager").eval()
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
