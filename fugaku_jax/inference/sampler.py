"""The choice of the next token: pure functions on logits, row by row.

What they leave and what they change is as in `transformers`, in its order: the repetition penalty,
then temperature, then the k most probable tokens, then the most probable ones of a total p.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from fugaku_jax.kernels.greatest import greatest


class Choice(NamedTuple):
    """How each row's tokens are chosen."""

    temperature: Float[Array, " B"]
    """What logits are divided by; 0 takes the most probable token."""
    top_k: Int[Array, " B"]
    """Only so many of the most probable tokens may be chosen; 0 for all."""
    top_p: Float[Array, " B"]
    """Only the fewest tokens that have this much probability together may be chosen."""
    repetition_penalty: Float[Array, " B"]
    """What the positive logits of tokens that a row has already are divided by, and the others
    multiplied by; 1 changes nothing."""
    seed: UInt32[Array, " B"]
    """Of the row's random numbers, which are the same whatever else is in the batch."""


def sample(
    logits: Float[Array, "B V"],
    columns: int,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, " B"],
    number: Int[Array, " B"],
    pieces: Int[Array, ""],
    choice: Choice,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Choose each row's next token.

    Args:
        logits: fp32; a device has whole rows.
        columns: of the vocabulary; those behind them only fill the array.
        tokens: what the rows hold so far, prompts included.
        lengths: how many of them.
        number: how many tokens each row has chosen before.
        pieces: how many tokens the tokenizer knows; no others are chosen.
        choice: how.

    Returns:
        the tokens, and the logarithms of their probabilities before anything was changed.
    """
    plain, log_sum = greatest(logits, pieces, columns)
    warm, penalised = choice.temperature > 0, choice.repetition_penalty != 1

    def change(logits: Array) -> Array:
        known = jnp.where(jnp.arange(logits.shape[1]) < pieces, logits, -jnp.inf)
        penalty = choice.repetition_penalty
        known = _if_any(penalised, lambda x: penalise(x, tokens, lengths, penalty), known)
        greedy, _ = greatest(known, pieces, columns)
        return jax.lax.cond(jnp.any(warm), draw, lambda _, greedy: greedy, known, greedy)

    def draw(x: Array, greedy: Array) -> Array:
        x = x / jnp.where(warm, choice.temperature, 1)[:, None]
        x = _if_any(choice.top_k > 0, lambda x: keep_top_k(x, choice.top_k), x)
        x = _if_any(choice.top_p < 1, lambda x: keep_top_p(x, choice.top_p), x)

        def one(seed: Array, number: Array, x: Array) -> Array:
            return jax.random.categorical(jax.random.fold_in(jax.random.key(seed), number), x)

        return jnp.where(warm, jax.vmap(one)(choice.seed, number, x).astype(jnp.int32), greedy)

    chosen = jax.lax.cond(jnp.any(warm | penalised), change, lambda _: plain, logits)
    return chosen, at_token(logits, chosen) - log_sum


def at_token(logits: Float[Array, "B V"], tokens: Int[Array, " B"]) -> Float[Array, " B"]:
    """Return each row's logit of its token."""
    return jnp.take_along_axis(logits, tokens[:, None], 1)[:, 0]


def penalise(
    logits: Float[Array, "B V"],
    tokens: Int[Array, "B S"],
    lengths: Int[Array, " B"],
    penalty: Float[Array, " B"],
) -> Float[Array, "B V"]:
    """Make the tokens that a row holds less probable.

    Source: Keskar et al., "CTRL", 2019, section 4.1, with negative logits as in `transformers`.
    """
    held = jnp.arange(tokens.shape[1]) < lengths[:, None]
    rows = jnp.arange(len(logits))[:, None]
    found = jnp.take_along_axis(logits, tokens, 1)
    less = jnp.where(found > 0, found / penalty[:, None], found * penalty[:, None])
    beyond = logits.shape[1]  # is dropped
    return logits.at[rows, jnp.where(held, tokens, beyond)].set(less, mode="drop")


def keep_top_k(logits: Float[Array, "B V"], k: Int[Array, " B"]) -> Float[Array, "B V"]:
    """Give all but the k greatest logits of a row -inf; equal ones stay together."""
    least = _greatest(logits, lambda threshold: _count(logits >= threshold) >= k)
    return jnp.where((k[:, None] > 0) & (logits < least), -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "B V"], p: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Keep the fewest of a row's greatest logits whose tokens have probability p; as `keep_top_k`.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1.
    """
    probability = jax.nn.softmax(logits)

    def enough(threshold: Array) -> Array:
        return jnp.where(logits >= threshold, probability, 0).sum(-1) >= p

    least = _greatest(logits, enough)
    return jnp.where((p[:, None] < 1) & (logits < least), -jnp.inf, logits)


def _greatest(logits: Array, is_enough: Callable[[Array], Array]) -> Array:
    """Return the greatest float of each row at which `is_enough`, by halving; -inf if none is.

    A float's bits, turned round where it is negative, are an integer of the same order.
    """

    def as_float(ordered: Array) -> Array:
        bits = jnp.where(ordered < 0, jnp.int32(-(2**31)) - ordered - 1, ordered)
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends  # low is enough, high is not
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        good = is_enough(as_float(middle)[:, None])
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    infinite = jax.lax.bitcast_convert_type(jnp.float32(jnp.inf), jnp.int32)
    high = jnp.full_like(logits[:, 0], 0, jnp.int32) + infinite
    low = -high - 1
    return as_float(jax.lax.fori_loop(0, 32, halve, (low, high))[0])[:, None]


def _count(which: Bool[Array, "B V"]) -> Int[Array, " B"]:
    return which.sum(-1, dtype=jnp.int32)


def _if_any(rows: Array, change: Callable[[Array], Array], x: Array) -> Array:
    """Change `x` if any row asks for it: most batches do not, and it takes time."""
    return jax.lax.cond(jnp.any(rows), change, lambda x: x, x)
