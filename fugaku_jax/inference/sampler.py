"""The choice of the next token: pure functions on logits, row by row.

What they leave and what they change is as in `transformers`, in its order: the repetition penalty,
then temperature, then the k most probable tokens, then the most probable ones of a total p.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from fugaku_jax.kernels.draw import draw
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
        held = tokens, lengths, choice.repetition_penalty
        x = jax.lax.cond(jnp.any(penalised), penalise, lambda x, *_: x, logits, *held)
        greedy, _ = greatest(x, pieces, columns)
        how = choice.temperature, choice.top_k, choice.top_p, _uniform(choice.seed, number)
        return jnp.where(warm, draw(x, pieces, *how), greedy)

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


def _uniform(seeds: UInt32[Array, " B"], number: Int[Array, " B"]) -> Float[Array, " B"]:
    """Return each row's random number of its place."""

    def one(seed: Array, number: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), number))

    return jax.vmap(one)(seeds, number)
