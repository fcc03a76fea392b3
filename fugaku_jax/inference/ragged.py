"""One pass of a model over tokens of several rows, as many of each as there are: the engine's step.

Prompts and newest tokens go through together, so a long prompt stalls nobody. Every token writes
its key and value before any looks, so rows may even share what is made in the same pass.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from fugaku_jax.inference.cache import Cache, through_blocks
from fugaku_jax.inference.sampler import Choice, at_token, sample
from fugaku_jax.inference.weights import only_first
from fugaku_jax.kernels.greatest import greatest
from fugaku_jax.models.gpt import GPT

ALTERNATIVES = 20
"""How many of the most probable tokens may be told."""


class Ragged(NamedTuple):
    """Tokens of several rows. What only fills the array is position 0 of a row of blocks 0, R."""

    tokens: Int[Array, " N"]
    positions: Int[Array, " N"]
    rows: Int[Array, " N"]
    """Whose each token is."""
    tables: Int[Array, "R+1 M"]
    """The blocks of each row, and of nobody."""
    copies: Int[Array, "R 2"]
    """Blocks that are copied before, and where to."""


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
    tell: Bool[Array, ""]
    """Whether any of them is told the most probable tokens."""
    choice: Choice


class Pieces(NamedTuple):
    """What the tokenizer says of tokens."""

    ends: Int[Array, " E"]
    """Which of them end a text."""
    count: Int[Array, ""]
    """How many it knows."""


class Chosen(NamedTuple):
    """What follows rows, of so many passes; logarithms of probabilities before any change."""

    tokens: Int[Array, "steps R"]
    log_probs: Float[Array, "steps R"]
    top: Int[Array, "steps R A"]
    """The most probable tokens, if they are told."""
    top_log_probs: Float[Array, "steps R A"]


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
    model = _model(structure, weights, ragged, texts.lengths > 0)
    hidden, cache = _hidden(model, ragged, cache)
    chosen = _choose(model, hidden, texts, pieces)
    return cache, jax.tree.map(lambda x: x[None], chosen)


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
    """Run the newest token of each row, choose the next, and so on, `steps` times of at most
    `most`, or until all rows have ended; what would be found after that is zeros.
    """
    rows = jnp.zeros((most, len(ragged.tokens)), jnp.int32)
    top = jnp.zeros((*rows.shape, _told(nnx.merge(structure, weights))), jnp.int32)
    found = Chosen(rows, rows.astype(jnp.float32), top, top.astype(jnp.float32))

    def one(carry: tuple) -> tuple:
        step, cache, ragged, texts, found = carry
        alive = texts.room > 0
        places = jnp.where(alive, ragged.positions, 0)
        nobody = len(ragged.tables) - 1
        here = ragged._replace(positions=places, rows=jnp.where(alive, ragged.rows, nobody))
        model = _model(structure, weights, here, alive)
        hidden, cache = _hidden(model, here, cache)
        chosen = _choose(model, hidden, texts, pieces)
        place = jnp.where(alive, texts.lengths, texts.tokens.shape[1])
        tokens = texts.tokens.at[jnp.arange(len(place)), place].set(chosen.tokens, mode="drop")
        is_end = jnp.any(chosen.tokens[:, None] == pieces.ends, axis=1)
        room = jnp.where(is_end, 0, texts.room - 1)
        texts = texts._replace(tokens=tokens, lengths=texts.lengths + 1, room=room)
        ragged = ragged._replace(tokens=chosen.tokens, positions=ragged.positions + 1)
        found = jax.tree.map(lambda all_, new: all_.at[step].set(new), found, chosen)
        return step + 1, cache, ragged, texts, found

    def going_on(carry: tuple) -> Array:
        step, _, _, texts, _ = carry
        return (step < steps) & jnp.any(texts.room > 0)

    start = jnp.int32(0), cache, ragged, texts, found
    _, cache, _, _, found = jax.lax.while_loop(going_on, one, start)
    return cache, found


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def score(
    structure: nnx.GraphDef[GPT],
    weights: PyTree[Shaped[Array, "..."]],
    cache: Cache,
    ragged: Ragged,
    targets: Int[Array, " N"],
    pieces: Pieces,
) -> tuple[Cache, Chosen]:
    """Run tokens of one row, and say how probable what follows each of them is."""
    model = _model(structure, weights, ragged, _is_used(ragged))
    hidden, cache = _hidden(model, ragged, cache)
    logits = _logits(model, hidden)
    log_sum = greatest(logits, pieces.count, model.config.vocab_size)[1]
    told = _most_probable(logits, log_sum, pieces, _told(model))
    found = Chosen(targets, at_token(logits, targets) - log_sum, *told)
    return cache, jax.tree.map(lambda x: x[:, None], found)


def _model(
    structure: nnx.GraphDef[GPT],
    weights: PyTree[Shaped[Array, "..."]],
    ragged: Ragged,
    texts: Bool[Array, " R"],
) -> GPT:
    """Return the model, which leaves out what only fills the arrays behind tokens and texts."""
    model = nnx.merge(structure, weights)
    only_first(model, _end(_is_used(ragged)), _end(texts))
    return model


def _is_used(ragged: Ragged) -> Bool[Array, " N"]:
    return ragged.rows < len(ragged.tables) - 1


def _end(which: Bool[Array, " N"]) -> Int[Array, ""]:
    """Return the number of places up to the last that is true."""
    return jnp.max(jnp.where(which, jnp.arange(1, len(which) + 1), 0)).astype(jnp.int32)


def _hidden(model: GPT, ragged: Ragged, cache: Cache) -> tuple[Float[Array, "N 1 D"], Cache]:
    tables = ragged.tables[ragged.rows]
    where = ragged.positions, tables, ragged.copies
    return through_blocks(model, ragged.tokens, *where, cache)


def _logits(model: GPT, hidden: Float[Array, "N 1 D"]) -> Float[Array, "N V"]:
    """Return logits on every device, those of the padding too."""
    return reshard(model.padded_logits(model.norm(hidden))[:, 0], PartitionSpec(None, None))


def _choose(model: GPT, hidden: Float[Array, "N 1 D"], texts: Texts, pieces: Pieces) -> Chosen:
    logits, told = _logits(model, hidden[texts.last]), _told(model)
    columns = model.config.vocab_size
    number = texts.lengths - texts.prompts
    of_texts = texts.tokens, texts.lengths, number
    chosen = sample(logits, columns, *of_texts, pieces.count, texts.choice)
    nothing = jnp.zeros((len(logits), told), jnp.int32)
    top = jax.lax.cond(
        texts.tell,
        lambda x: _most_probable(x, greatest(x, columns, columns)[1], pieces, told),
        lambda _: (nothing, nothing.astype(jnp.float32)),
        logits,
    )
    return Chosen(*chosen, *top)


def _most_probable(
    logits: Float[Array, "N V"], log_sum: Float[Array, " N"], pieces: Pieces, count: int
) -> tuple[Int[Array, "N A"], Float[Array, "N A"]]:
    """Return the most probable tokens that the tokenizer knows."""
    known = jnp.where(jnp.arange(logits.shape[1]) < pieces.count, logits, -jnp.inf)
    top, tokens = jax.lax.top_k(known, count)
    return tokens.astype(jnp.int32), top - log_sum[:, None]


def _told(model: GPT) -> int:
    return min(ALTERNATIVES, model.config.vocab_size)
