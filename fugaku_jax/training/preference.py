"""DPO: the model learns to find the chosen answer likelier than the rejected one.

The loss of a pair is `-log sigmoid(margin)`, and its margin `beta` times what the model's log-odds
of the two answers are above those of the model that it began as, the reference.

A row holds pairs: two segments that follow each other, the chosen one first. What is learned of a
segment is what the weights say; padding is a segment of which nothing is.

Source: Rafailov et al., "Direct Preference Optimization", 2023, equation 7.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class PairLosses(NamedTuple):
    """What pairs of answers cost."""

    total: Float[Array, ""]
    """Sum over the pairs, in nats."""
    slopes: Float[Array, "B T"]
    """Derivative of the sum by the loss of each position."""
    margins: Float[Array, "B T"]
    """The margin of a pair, at the first position of it; 0 elsewhere."""


def pair_losses(
    losses: Float[Array, "B T"],
    reference: Float[Array, "B T"],
    weights: Float[Array, "B T"],
    segments: Int[Array, "B T"],
    beta: float,
) -> PairLosses:
    """Return what the pairs of some rows cost.

    Args:
        losses: cross-entropy of each position, in nats.
        reference: the same of the reference.
        weights: 1 where an answer is predicted, else 0.
        segments: numbers of the segments, from 0 in each row.
        beta: how much a difference to the reference counts.
    """
    sign = jnp.where(segments % 2 == 0, 1.0, -1.0)
    margin = beta * _of_pairs(sign * weights * (reference - losses), segments)
    is_pair = _is_pair(weights, segments)
    total = jnp.where(is_pair, jax.nn.softplus(-margin), 0).sum()
    rows = jnp.arange(len(segments))[:, None]
    slope = (beta * jax.nn.sigmoid(-margin))[rows, segments // 2]
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    begins &= segments % 2 == 0
    margins = jnp.where(begins, jnp.where(is_pair, margin, 0)[rows, segments // 2], 0)
    return PairLosses(total, slope * sign * weights, margins)


def pair_count(weights: Float[Array, "B T"], segments: Int[Array, "B T"]) -> Float[Array, ""]:
    """Return how many pairs there are in some rows; arguments as of `pair_losses`."""
    return _is_pair(weights, segments).sum().astype(jnp.float32)


def _is_pair(weights: Array, segments: Array) -> Bool[Array, "B P"]:
    return _of_pairs(weights, segments) > 0


def _of_pairs(x: Float[Array, "B T"], segments: Int[Array, "B T"]) -> Float[Array, "B P"]:
    """Sum over the positions of each pair; a row of T positions has no more than T / 2 and one."""
    rows, length = x.shape
    return jnp.zeros((rows, length // 2 + 1)).at[jnp.arange(rows)[:, None], segments // 2].add(x)
