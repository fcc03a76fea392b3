"""One pass of a model over tokens of several rows, as many of each as there are: the engine's step.

Prompts and newest tokens go through together, so a long prompt stalls nobody. Every token writes
its key and value before any looks, so rows may even share what is made in the same pass.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float, Int, PyTree, Shaped

from fugaku_jax.inference.cache import Cache, through_blocks, unpacked
from fugaku_jax.inference.decoding import Pieces
from fugaku_jax.inference.sampler import Choice, sample
from fugaku_jax.kernels import native
from fugaku_jax.kernels.cached_attention import cached_attention
from fugaku_jax.models.gpt import GPT, Inputs, Operands


class Ragged(NamedTuple):
    """Tokens of several rows. What only fills the array is position 0 of a row of blocks 0, R."""

    tokens: Int[Array, " N"]
    positions: Int[Array, " N"]
    rows: Int[Array, " N"]
    """Whose each token is."""
    tables: Int[Array, "R+1 M"]
    """The blocks of each row, and of nobody."""


class Texts(NamedTuple):
    """The rows of a pass, and how they go on."""

    last: Int[Array, " R"]
    """Which token is each one's last of this pass."""
    tokens: Int[Array, "R S"]
    """All that they hold, where any of them is told not to repeat itself."""
    lengths: Int[Array, " R"]
    prompts: Int[Array, " R"]
    room: Int[Array, " R"]
    """How many tokens each may yet be given."""
    choice: Choice


class Chosen(NamedTuple):
    """Tokens that follow, and the logarithms of their probabilities; of so many passes."""

    tokens: Int[Array, "steps R"]
    log_probs: Float[Array, "steps R"]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def extend(
    structure: nnx.GraphDef[GPT],
    weights: PyTree[Shaped[Array, "..."]],
    cache: Cache,
    ragged: Ragged,
    texts: Texts,
    pieces: Pieces,
) -> tuple[Cache, Chosen]:
    """Run tokens, and choose what follows the last of each row; for all, whether wanted or not."""
    model = nnx.merge(structure, weights)
    hidden, cache = _hidden(model, ragged, cache)
    chosen, log_probs = _choose(model, hidden, texts, pieces)
    return cache, _everywhere(Chosen(chosen[None], log_probs[None]))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def repeat(
    structure: nnx.GraphDef[GPT],
    most: int,
    weights: PyTree[Shaped[Array, "..."]],
    cache: Cache,
    ragged: Ragged,
    texts: Texts,
    pieces: Pieces,
    steps: Int[Array, ""] | int,
) -> tuple[Cache, Chosen]:
    """Run the newest token of each row, choose the next, and so on; at most `most` times."""
    model = nnx.merge(structure, weights)
    nothing = jnp.zeros((most, len(ragged.tokens)), jnp.int32)
    start = (jnp.int32(0), cache, ragged, texts, Chosen(nothing, nothing.astype(jnp.float32)))

    def one(carry: tuple) -> tuple:
        step, cache, ragged, texts, found = carry
        alive = texts.room > 0
        places = jnp.where(alive, ragged.positions, 0)
        nobody = len(ragged.tables) - 1
        here = ragged._replace(positions=places, rows=jnp.where(alive, ragged.rows, nobody))
        hidden, cache = _hidden(model, here, cache)
        chosen = Chosen(*map(_whole, _choose(model, hidden, texts, pieces)))
        place = jnp.where(alive, texts.lengths, texts.tokens.shape[1])
        tokens = texts.tokens.at[jnp.arange(len(place)), place].set(chosen.tokens, mode="drop")
        texts = texts._replace(tokens=tokens, lengths=texts.lengths + 1, room=texts.room - 1)
        ragged = ragged._replace(tokens=chosen.tokens, positions=ragged.positions + 1)
        found = jax.tree.map(lambda all_, new: all_.at[step].set(new), found, chosen)
        return step + 1, cache, ragged, texts, found

    _, cache, _, _, found = jax.lax.while_loop(lambda carry: carry[0] < steps, one, start)
    return cache, found


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def score(
    structure: nnx.GraphDef[GPT],
    weights: PyTree[Shaped[Array, "..."]],
    cache: Cache,
    ragged: Ragged,
    targets: Int[Array, " N"],
    pieces: Pieces,
) -> tuple[Cache, Float[Array, " N"]]:
    """Run tokens, and return the logarithm of the probability of what follows each."""
    model = nnx.merge(structure, weights)
    hidden, cache = _hidden(model, ragged, cache)
    logits = _whole(model.logits(model.norm(hidden))[:, 0])
    known = jnp.where(jnp.arange(logits.shape[1]) < pieces.count, logits, -jnp.inf)
    found = jnp.take_along_axis(jax.nn.log_softmax(known), targets[:, None], 1)
    return cache, found[:, 0]


def _hidden(model: GPT, ragged: Ragged, cache: Cache) -> tuple[Float[Array, "N 1 D"], Cache]:
    tables, positions = ragged.tables[ragged.rows], ragged.positions

    def look(operands: Operands, layer: Array, cache: Cache) -> tuple[Array, Cache]:
        q, k, v = (x[:, 0] for x in unpacked(operands))
        kept = cache.keys, cache.values
        mixed, keys, values = cached_attention(q, k, v, *kept, layer, positions, tables)
        return mixed[:, None], Cache(keys, values)

    inputs = Inputs(ragged.tokens[:, None], positions[:, None])
    return through_blocks(model, inputs, cache, look)


def _choose(
    model: GPT, hidden: Float[Array, "N 1 D"], texts: Texts, pieces: Pieces
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    logits = _whole(model.logits(model.norm(hidden[texts.last]))[:, 0])
    choice, structure = jax.tree.flatten(texts.choice)

    def local(
        logits: Array, tokens: Array, lengths: Array, number: Array, count: Array, *choice: Array
    ) -> tuple[Array, Array]:
        how = jax.tree.unflatten(structure, choice)
        return sample(logits, tokens, lengths, number, count, how)

    number = texts.lengths - texts.prompts
    operands = logits, texts.tokens, texts.lengths, number, pieces.count, *choice
    return native.on_each_device(local, (PartitionSpec(None),) * 2, *operands)


def _whole(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    return reshard(x, PartitionSpec(*[None] * x.ndim))


def _everywhere(chosen: Any) -> Any:
    """Let every process read all of it."""
    return jax.tree.map(_whole, chosen)
