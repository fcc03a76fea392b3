"""Generated text, without a cache: the whole prefix is run again for every token.

Enough for the few samples that a training run shows of itself.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, PyTree

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.models.gpt import GPT
from fugaku_jax.sharding.rules import parts, spec


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    new_tokens: int,
    temperature: float = 0.8,
    seed: int = 0,
) -> list[str]:
    """Continue each prompt and return the texts that follow it.

    A text ends at the end-of-document token, after `new_tokens`, or where the model's positions
    end. A prompt longer than the model's positions keeps its last tokens.

    Args:
        temperature: what the logits are divided by; 0 takes the most probable token.
        seed: of the random choice.
    """
    end = tokenizer.end_of_document
    longest = model.config.sequence_length
    encoded = [[end, *tokenizer.encode(prompt)][-(longest - 1) :] for prompt in prompts]
    total = min(max(map(len, encoded)) + new_tokens, longest)
    # Rows are added until the devices divide them; what they generate is not looked at.
    rows = -(-len(encoded) // parts("batch")) * parts("batch")
    tokens = np.full((rows, total), end, np.int32)
    lengths = np.ones(rows, np.int32)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)] = ids
        lengths[row] = len(ids)
    structure, parameters = nnx.split(model)
    key = jax.random.key(seed)
    filled = np.asarray(
        _fill(structure, parameters, tokens, lengths, jnp.float32(temperature), key)
    )
    texts = []
    for row, ids in enumerate(encoded):
        answer = filled[row, len(ids) : len(ids) + new_tokens].tolist()
        texts.append(tokenizer.decode(answer[: answer.index(end)] if end in answer else answer))
    return texts


@functools.partial(jax.jit, static_argnums=0)
def _fill(
    structure: nnx.GraphDef[GPT],
    parameters: PyTree[Array],
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    temperature: Array,
    key: Array,
) -> Int[Array, "B T"]:
    """Replace all tokens that stand at or after their row's length by generated ones."""
    model = nnx.merge(structure, parameters)
    tokens = jax.sharding.reshard(tokens, spec("batch", None))
    lengths = jax.sharding.reshard(lengths, spec("batch"))

    def add_token(position: Array, tokens: Array) -> Array:
        hidden = model(tokens)
        last = jax.lax.dynamic_slice_in_dim(hidden, position - 1, 1, axis=1)
        logits = model.logits(last)[:, 0]
        noise = jax.random.gumbel(jax.random.fold_in(key, position), logits.shape)
        noise = jax.sharding.reshard(noise, spec("batch", "vocab"))
        chosen = jnp.argmax(logits + temperature * noise, axis=-1).astype(tokens.dtype)
        current = jax.lax.dynamic_slice_in_dim(tokens, position, 1, axis=1)[:, 0]
        new = jnp.where(position >= lengths, chosen, current)
        return jax.lax.dynamic_update_slice_in_dim(tokens, new[:, None], position, axis=1)

    filled = jax.lax.fori_loop(jnp.min(lengths), tokens.shape[1], add_token, tokens)
    # Every process reads all of it.
    return jax.sharding.reshard(filled, PartitionSpec())
