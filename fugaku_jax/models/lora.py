"""LoRA: adapters beside kernels of a block, and what these are together.

A kernel `W` becomes `W + alpha / rank * A B`. That is done for one layer at a time, where its
weights are brought together; on the way back the gradient of the kernel becomes that of A and B
where it is taken away again. So what runs the layers, and what cuts them up, knows no adapters; the
model is never there a second time, and of all gradients of kernels no more than a layer's.

Adapters are nested as the parameters of a model are, `blocks.KERNEL.NAME.lora_a`, by the names of
our kernels and of `transformers`, in which keys and values, or gate and up, are matrices of their
own. They are stacked over layers: A is `[L, inputs ..., rank]`, B `[L, rank, outputs ...]`.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; the initial A as in
their `loralib`, uniform within 1 / sqrt(inputs).
"""

import functools
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key, PyTree

from fugaku_jax.config import Config, ModelConfig, TuningConfig
from fugaku_jax.kernels.matmul import einsum
from fugaku_jax.pipeline.stack import Fsdp
from fugaku_jax.sections.tuning import LORA_TARGETS, WITH_ADAPTERS


class Target(NamedTuple):
    """A matrix of a block that may have an adapter."""

    name: str
    """In `transformers`."""
    kernel: str
    """The layer of ours whose kernel it is in."""
    inputs: int
    """How many of the kernel's dimensions are its input's; they come first."""
    part: int | None = None
    """Which of several that the kernel has side by side, in its dimension after the input's."""


_TARGETS = {
    "gpt2": (
        Target("c_attn", "qkv", 1),
        Target("c_proj", "attention_output", 2),
        Target("c_fc", "up", 1),
        Target("c_proj", "down", 1),
    ),
    "llama": (
        Target("q_proj", "q", 1),
        Target("k_proj", "kv", 1, 0),
        Target("v_proj", "kv", 1, 1),
        Target("o_proj", "attention_output", 2),
        Target("gate_proj", "up", 1, 0),
        Target("up_proj", "up", 1, 1),
        Target("down_proj", "down", 1),
    ),
}

_Into = Callable[[str, Array, Array, Array], Array]
"""Adds the product of two arrays, an einsum, to a third."""


class Adapted(NamedTuple):
    """Stacked layers, or one of them, as adapters and the weights that they are beside."""

    adapters: PyTree[Float[Array, "..."]]
    frozen: PyTree[Float[Array, "..."]] | None
    """The weights; None where this is a gradient, as they have none."""


def lora_targets(model: ModelConfig, tuning: TuningConfig) -> tuple[Target, ...]:
    """Return the matrices of a block that have adapters; none if all weights are learned."""
    if tuning.method not in WITH_ADAPTERS:
        return ()
    names = tuning.targets or LORA_TARGETS[model.family]
    return tuple(target for target in _TARGETS[model.family] if target.name in names)


def adapter_shapes(
    config: Config, blocks: PyTree[jax.ShapeDtypeStruct]
) -> PyTree[jax.ShapeDtypeStruct]:
    """Return the shapes of a run's adapters, split by tensor axes as the kernels are.

    Args:
        config: the run.
        blocks: the weights of its blocks, stacked.
    """
    targets = lora_targets(config.model, config.tuning)
    rank, found = config.tuning.rank, {}
    for target in targets:
        kernel = blocks[target.kernel]["kernel"]
        sizes = list(zip(kernel.shape, kernel.sharding.spec, strict=True))
        inputs, outputs = sizes[1 : 1 + target.inputs], sizes[1 + target.inputs :]
        if target.part is not None:
            outputs = outputs[1:]

        def leaf(*sizes: tuple[int, Any], like: jax.ShapeDtypeStruct = kernel) -> Any:
            shape, spec = zip(*sizes, strict=True)
            sharding = like.sharding.update(spec=PartitionSpec(*spec))
            return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

        found.setdefault(target.kernel, {})[target.name] = {
            "lora_a": leaf(sizes[0], *inputs, (rank, None)),
            "lora_b": leaf(sizes[0], (rank, None), *outputs),
        }
    return {"blocks": found}


def init_adapters(
    shapes: PyTree[jax.ShapeDtypeStruct], key: Key[Array, ""]
) -> PyTree[Float[Array, "..."]]:
    """Return the adapters before the first step, which change nothing: B is zero.

    Args:
        shapes: of the adapters, layers in their order.
        key: key of A, which is the same on every mesh.
    """

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> Array:
        spec = leaf.sharding.spec
        if path[-1].key == "lora_b":
            return jnp.zeros(leaf.shape, leaf.dtype, out_sharding=spec)
        bound = 1 / math.sqrt(math.prod(leaf.shape[1:-1]))
        # By its name, so that it does not depend on what others have adapters.
        own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        uniform = jax.random.uniform(own, leaf.shape, leaf.dtype, -1, 1, out_sharding=spec)
        return bound * uniform

    return jax.tree.map_with_path(one, shapes)


def merged_stack(
    config: Config, blocks: PyTree[Float[Array, "L ..."]], adapters: PyTree[Float[Array, "L ..."]]
) -> PyTree[Float[Array, "L ..."]]:
    """Return stacked weights with their adapters in them, in the type of the weights.

    It works on arrays of the whole mesh, over whose axes JAX must be free to share the work: inside
    `jax.sharding.auto_axes`.
    """

    def add(equation: str, a: Array, b: Array, into: Array) -> Array:
        return into + jnp.einsum(equation, a, b, precision="highest")

    return jax.vmap(functools.partial(_merged, config, add))(blocks, adapters)


def adapted(config: Config, frozen: Fsdp, adapters: Fsdp) -> Fsdp:
    """Return how one layer's weights come together of `Adapted` ones.

    Args:
        config: the run.
        frozen: how the weights that stay come together.
        adapters: how the adapters do.
    """

    def add(equation: str, a: Array, b: Array, into: Array) -> Array:
        return einsum(equation, a, b, jax.typeof(into).sharding.spec, into=into)

    def gather(layer: Adapted) -> PyTree:
        whole = adapters.gather(layer.adapters)
        return _merged(config, add, frozen.gather(layer.frozen), whole)

    def scatter(gradients: PyTree, layer: Adapted) -> Adapted:
        whole = adapters.gather(layer.adapters)
        projected = {
            kernel: dict(_projected(config, kernel, gradients[kernel]["kernel"], each))
            for kernel, each in whole.items()
        }
        return Adapted(adapters.scatter(projected, layer.adapters), None)

    def zero(layers: Adapted) -> Adapted:
        return Adapted(adapters.zero(layers.adapters), None)

    return Fsdp(gather, scatter, zero)


def _merged(config: Config, add: _Into, weights: PyTree, adapters: PyTree) -> PyTree:
    """Return a layer's weights with its adapters in them."""
    scale, whole = config.tuning.alpha / config.tuning.rank, dict(weights)
    for target in lora_targets(config.model, config.tuning):
        pair = adapters[target.kernel][target.name]
        kernel = whole[target.kernel]["kernel"]
        inputs, outputs = _labels(target, kernel)
        equation = f"{inputs}r,r{outputs}->{inputs}{outputs}"
        a, b = (scale * pair["lora_a"]).astype(jnp.float32), pair["lora_b"]
        if target.part is None:
            kernel = add(equation, a, b, kernel)
        else:
            parts = [kernel[:, part] for part in range(kernel.shape[1])]
            parts[target.part] = add(equation, a, b, parts[target.part])
            kernel = jnp.stack(parts, 1)
        whole[target.kernel] = whole[target.kernel] | {"kernel": kernel}
    return whole


def _projected(
    config: Config, kernel: str, gradient: Array, adapters: PyTree
) -> Iterator[tuple[str, PyTree]]:
    """Yield the gradients of the adapters of a layer's kernel, of which the whole one is given."""
    scale = config.tuning.alpha / config.tuning.rank
    for target in lora_targets(config.model, config.tuning):
        if target.kernel != kernel:
            continue
        a, b = (adapters[target.name][name] for name in ("lora_a", "lora_b"))
        inputs, outputs = _labels(target, gradient)
        own = gradient if target.part is None else gradient[:, target.part]
        whole = f"{inputs}{outputs}"
        spec_a, spec_b = (jax.typeof(x).sharding.spec for x in (a, b))
        yield (
            target.name,
            {
                "lora_a": einsum(f"{whole},r{outputs}->{inputs}r", own, scale * b, spec_a),
                "lora_b": einsum(f"{inputs}r,{whole}->r{outputs}", scale * a, own, spec_b),
            },
        )


def _labels(target: Target, kernel: Array) -> tuple[str, str]:
    """Return labels of a matrix's inputs and of its outputs."""
    outputs = kernel.ndim - target.inputs - (target.part is not None)
    return "ij"[: target.inputs], "xyz"[:outputs]
