"""The compiled half of generation: prompts run, then tokens chosen until all rows have ended."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from fugaku_jax.inference.cache import Cache, decode, empty_cache, prefill
from fugaku_jax.inference.sampler import Choice, sample
from fugaku_jax.kernels import native
from fugaku_jax.layout.rules import Rules
from fugaku_jax.models.gpt import GPT


class DecodeState(NamedTuple):
    """The rows so far."""

    tokens: Int[Array, "B S"]
    """Each row's prompt and what was generated."""
    log_probs: Float[Array, "B S"]
    """Of the generated tokens, where these are."""
    lengths: Int[Array, " B"]
    """Tokens of each row."""
    done: Bool[Array, " B"]
    """Whether it has ended."""


class Request(NamedTuple):
    """What is asked for, row by row."""

    prompts: Int[Array, " B"]
    """Tokens of the prompts."""
    limits: Int[Array, " B"]
    """Tokens that a row may have, prompt included."""
    choice: Choice


class Pieces(NamedTuple):
    """What the tokenizer says of tokens."""

    ends: Int[Array, " E"]
    """Which of them end a text."""
    count: Int[Array, ""]
    """How many it knows."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def start(
    structure: nnx.GraphDef[GPT],
    dtype: jnp.dtype,
    positions: int,
    weights: PyTree[Shaped[Array, "..."]],
    prompts: Int[Array, "B T"],
    request: Request,
    pieces: Pieces,
) -> tuple[Cache, DecodeState]:
    """Run the prompts and choose each row's first token."""
    model = nnx.merge(structure, weights)
    request = _by_row(request, model.rules)
    prompts = reshard(prompts, model.rules.spec("batch", None))
    rows, width = prompts.shape
    cache = empty_cache(model, rows, max(positions, width), dtype)
    logits, cache = prefill(model, prompts, request.prompts, cache)
    tokens = jnp.pad(prompts, ((0, 0), (0, max(positions - width, 0))))
    nothing = jnp.zeros_like(tokens, jnp.float32)
    state = DecodeState(tokens, nothing, request.prompts, jnp.zeros_like(request.prompts, bool))
    return cache, _everywhere(_choose(state, logits, request, pieces, model.rules))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def advance(
    structure: nnx.GraphDef[GPT],
    weights: PyTree[Shaped[Array, "..."]],
    cache: Cache,
    state: DecodeState,
    request: Request,
    pieces: Pieces,
    steps: Int[Array, ""] | int,
) -> tuple[Cache, DecodeState]:
    """Choose so many tokens more, or as many as there are until all rows have ended."""
    model = nnx.merge(structure, weights)
    request, state = (_by_row(each, model.rules) for each in (request, state))

    def going_on(carry: tuple[Array, Cache, DecodeState]) -> Array:
        return (carry[0] < steps) & ~jnp.all(carry[2].done)

    def one(carry: tuple[Array, Cache, DecodeState]) -> tuple[Array, Cache, DecodeState]:
        step, cache, state = carry
        positions = state.lengths - 1
        newest = _at(state.tokens, positions)
        tokens = jnp.where(newest, state.tokens, 0).sum(1)
        logits, cache = decode(model, tokens, positions, cache)
        return step + 1, cache, _choose(state, logits, request, pieces, model.rules)

    _, cache, state = jax.lax.while_loop(going_on, one, (jnp.int32(0), cache, state))
    return cache, _everywhere(state)


def _choose(
    state: DecodeState,
    logits: Float[Array, "B V"],
    request: Request,
    pieces: Pieces,
    rules: Rules,
) -> DecodeState:
    """Add a token to every row that has not ended."""
    choice, structure = jax.tree.flatten(request.choice)

    def local(
        logits: Array, tokens: Array, lengths: Array, number: Array, count: Array, *choice: Array
    ) -> tuple[Array, Array]:
        how = jax.tree.unflatten(structure, choice)
        return sample(logits, logits.shape[1], tokens, lengths, number, count, how)

    logits = reshard(logits, rules.spec("batch", None))
    tokens, lengths = state.tokens, state.lengths
    rows = rules.spec("batch")
    chosen, log_probs = native.on_each_device(
        local,
        (rows, rows),
        logits,
        tokens,
        lengths,
        lengths - request.prompts,
        pieces.count,
        *choice,
    )
    here = _at(tokens, lengths) & ~state.done[:, None]
    lengths = lengths + ~state.done
    is_end = jnp.any(chosen[:, None] == pieces.ends, axis=1)
    return DecodeState(
        tokens=jnp.where(here, chosen[:, None], tokens),
        log_probs=jnp.where(here, log_probs[:, None], state.log_probs),
        lengths=lengths,
        done=state.done | is_end | (lengths >= request.limits),
    )


def _at(tokens: Int[Array, "B S"], positions: Int[Array, " B"]) -> Bool[Array, "B S"]:
    return jnp.arange(tokens.shape[1]) == positions[:, None]


def _by_row(tree: Any, rules: Rules) -> Any:
    """Share rows among the devices as the model does."""
    return jax.tree.map(lambda x: reshard(x, rules.spec("batch", *[None] * (x.ndim - 1))), tree)


def _everywhere(state: DecodeState) -> DecodeState:
    """Let every process read all of it."""
    return jax.tree.map(lambda x: reshard(x, PartitionSpec()), state)
