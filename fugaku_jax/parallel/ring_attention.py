"""Causal self-attention over a sequence that several devices share.

Keys and values of the whole sequence pass every device, a slice at a time: in each of n steps the
devices gather the next n-th of what each of them holds, so that none ever has more of others' keys
than it has keys of its own. What a query has seen is kept as an unnormalised sum, with the largest
score and the sum of the weights (the online softmax). The backward pass keeps the result and the
logarithm of that sum, lets the keys pass again, and returns the gradient of each slice to its
owner by a reduce-scatter.

As many bytes travel as if whole shards went round the ring of devices, but a gather is a collective
among the devices that share the sequence alone. On XLA's CPU backend a `ppermute` waits for all
devices of the process, so that no stage of a pipeline could do one while another stage is idle.

Contiguous shards would make the last device work almost twice as long as the mean, since its
queries see everything. So each shard's queries are cut into n pieces and every device takes one of
each shard, in reverse order for odd shards: with two devices that is the zigzag order. To send the
queries there and the results back costs an n-th of what the keys cost.

Source: Liu et al., "Ring Attention with Blockwise Transformers for Near-Infinite Context", 2023;
Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018; the cut of the queries
after Brandon et al., "Striped Attention", 2023.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from fugaku_jax.kernels.attention import attention
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.parallel.sequence_cut import Columns, Rows, SequenceCut

_UNSEEN = -1e30
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def ring_attention(
    q: Float[Array, "B T_own H K"],
    k: Float[Array, "B T_own H K"],
    v: Float[Array, "B T_own H K"],
    axes: tuple[str, ...],
    segment_ids: Int[Array, "B T"] | None = None,
    dropout: Dropout | None = None,
    dropout_rate: float = 0.0,
) -> Float[Array, "B T_own H K"]:
    """Let every position attend to itself and to all before it, on whatever device they are.

    Called inside a `jax.shard_map` with `check_vma=False`. Explicit axes may split the heads. The
    numbers, masks of dropout included, are those of `kernels.attention` on the whole sequence:
    scores, softmax and sums are fp32, the products are in the type of the operands. Memory is
    linear in the positions of a device.

    Args:
        q: queries of this device's positions; device i along `axes` has the i-th equal part.
        k: keys of the same.
        v: values of the same.
        axes: manual mesh axes that share the sequence, the outermost first.
        segment_ids: of the whole sequence; if given, a position sees only its own number.
        dropout: draws the masks of the weights; None keeps them all.
        dropout_rate: probability of dropping a weight.

    Raises:
        ValueError: there is dropout, and a device's positions are not a multiple of 4.
    """
    devices, length, head_dim = jax.lax.axis_size(axes), q.shape[1], q.shape[3]
    if devices == 1:
        return attention(q, k, v, segment_ids, dropout, dropout_rate)
    if dropout is not None and length % 4:
        raise ValueError(f"A device has {length} positions; masks need a multiple of 4.")
    q = q * jnp.asarray(1 / math.sqrt(head_dim), q.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    cut = SequenceCut(axes, devices, length)
    return jnp.swapaxes(_attend(q, k, v, segment_ids, dropout, dropout_rate, cut), 1, 2)


class _Seen(NamedTuple):
    """What queries have of the keys that passed; fp32, with a leading axis of blocks or without."""

    total: Array
    """Sum of the values by weight, `[R, B, H, Q, K]`."""
    largest: Array
    """Largest score, `[R, B, H, Q, 1]`; it is subtracted from all scores."""
    weight: Array
    """Sum of the weights, `[R, B, H, Q, 1]`."""


class _Kept(NamedTuple):
    """What the backward pass needs."""

    rows: Rows
    outputs: Array
    log_sums: Array
    slices: Array
    segment_ids: Array | None
    dropout: Dropout | None


class _Upstream(NamedTuple):
    """Queries, and what is known of them on the way back, `[R, B, H, Q, K or 1]`."""

    rows: Rows
    d_out: Array
    log_sum: Array
    delta: Array
    """Sum of the weights of a row times their gradients, whatever was dropped."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(
    q: Float[Array, "B H T_own K"],
    k: Float[Array, "B H T_own K"],
    v: Float[Array, "B H T_own K"],
    segment_ids: Int[Array, "B T"] | None,
    dropout: Dropout | None,
    rate: float,
    cut: SequenceCut,
) -> Float[Array, "B H T_own K"]:
    return _forward(q, k, v, segment_ids, dropout, rate, cut)[0]


def _forward(
    q: Array,
    k: Array,
    v: Array,
    segment_ids: Array | None,
    dropout: Dropout | None,
    rate: float,
    cut: SequenceCut,
) -> tuple[Array, _Kept]:
    rows, slices = cut.rows(q, segment_ids), cut.cut_keys(k, v)

    def step(seen: _Seen, passing: tuple[Array, Array]) -> tuple[_Seen, None]:
        number, keys = passing
        gathered = cut.gather(keys)

        def visit(seen: _Seen, pair: tuple[Array, Array]) -> tuple[_Seen, None]:
            block, shard = pair
            row = _at(rows, block)
            columns = cut.columns(_at(gathered, shard), shard, number, segment_ids)
            see = functools.partial(_see, row, columns, dropout, rate)
            after = jax.lax.cond(_is_any_visible(row, columns), see, _nothing_new, _at(seen, block))
            return _put(seen, after, block), None

        return jax.lax.scan(visit, seen, cut.pairs())[0], None

    zeros = jnp.zeros_like(rows.q, jnp.float32)
    nothing = _Seen(zeros, zeros[..., :1] + _UNSEEN, zeros[..., :1])
    seen, _ = jax.lax.scan(step, nothing, (jnp.arange(cut.slices), slices))
    outputs = (seen.total / seen.weight).astype(q.dtype)
    log_sums = seen.largest + jnp.log(seen.weight)
    kept = _Kept(rows, outputs, log_sums, slices, segment_ids, dropout)
    return cut.bring_home(outputs), kept


def _see(row: Rows, columns: Columns, dropout: Dropout | None, rate: float, seen: _Seen) -> _Seen:
    """Add keys to what a block of queries has seen."""
    scores = _scores(row, columns)
    largest = jnp.maximum(seen.largest, jnp.max(scores, axis=-1, keepdims=True))
    weights, shrink = jnp.exp(scores - largest), jnp.exp(seen.largest - largest)
    # What a row is divided by knows no dropout: that falls on weights already normalised.
    weight = seen.weight * shrink + jnp.sum(weights, axis=-1, keepdims=True)
    weights = _dropped(weights.astype(columns.v.dtype), row, columns, dropout, rate)
    added = _product("bhqs,bhsk->bhqk", weights, columns.v)
    return _Seen(seen.total * shrink + added, largest, weight)


def _backward(
    rate: float, cut: SequenceCut, kept: _Kept, d_out: Array
) -> tuple[Array, Array, Array, None, None]:
    rows, upstream = kept.rows, cut.spread(d_out)
    products = kept.outputs.astype(jnp.float32) * upstream
    delta = jnp.sum(products, axis=-1, keepdims=True)
    blocks = _Upstream(rows, upstream, kept.log_sums, delta)

    def step(d_q: Array, passing: tuple[Array, Array]) -> tuple[Array, Array]:
        number, keys = passing
        gathered = cut.gather(keys)

        def visit(
            gradients: tuple[Array, Array], pair: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array], None]:
            block, shard = pair
            d_q, d_gathered = gradients
            given = _at(blocks, block)
            columns = cut.columns(_at(gathered, shard), shard, number, kept.segment_ids)
            d_row, d_keys = jax.lax.cond(
                _is_any_visible(given.rows, columns),
                functools.partial(_pull_back, given, columns, kept.dropout, rate),
                _nothing_new,
                (_at(d_q, block), _at(d_gathered, shard)),
            )
            return (_put(d_q, d_row, block), _put(d_gathered, d_keys, shard)), None

        zeros = jnp.zeros_like(gathered, jnp.float32)
        (d_q, d_gathered), _ = jax.lax.scan(visit, (d_q, zeros), cut.pairs())
        return d_q, cut.scatter(d_gathered)

    nothing = jnp.zeros_like(rows.q, jnp.float32)
    d_q, d_slices = jax.lax.scan(step, nothing, (jnp.arange(cut.slices), kept.slices))
    dtype = kept.slices.dtype
    d_k, d_v = cut.join_keys(d_slices.astype(dtype))
    return cut.bring_home(d_q.astype(dtype)), d_k, d_v, None, None


_attend.defvjp(_forward, _backward)


def _pull_back(
    given: _Upstream,
    columns: Columns,
    dropout: Dropout | None,
    rate: float,
    gradients: tuple[Array, Array],
) -> tuple[Float[Array, "B H Q K"], Float[Array, "2 B H C K"]]:
    """Add to the gradients of a block's queries, and of keys and values, in fp32."""
    row, d_out, log_sum, delta = given
    weights = jnp.exp(_scores(row, columns) - log_sum)
    dropped = _dropped(weights.astype(d_out.dtype), row, columns, dropout, rate)
    d_v = _product("bhqs,bhqk->bhsk", dropped, d_out)
    d_weights = _product("bhqk,bhsk->bhqs", d_out, columns.v)
    d_weights = _dropped(d_weights, row, columns, dropout, rate)
    d_scores = (weights * (d_weights - delta)).astype(row.q.dtype)
    d_q = _product("bhqs,bhsk->bhqk", d_scores, columns.k)
    d_k = _product("bhqs,bhqk->bhsk", d_scores, row.q)
    return gradients[0] + d_q, gradients[1] + jnp.stack([d_k, d_v])


def _scores(row: Rows, columns: Columns) -> Float[Array, "B H Q C"]:
    visible = (row.position[:, None] >= columns.position)[None, None]
    if row.segment_ids is not None and columns.segment_ids is not None:
        same = row.segment_ids[:, :, None] == columns.segment_ids[:, None, :]
        visible &= same[:, None]
    return jnp.where(visible, _product("bhqk,bhsk->bhqs", row.q, columns.k), _UNSEEN)


def _dropped(
    weights: Array, row: Rows, columns: Columns, dropout: Dropout | None, rate: float
) -> Array:
    if dropout is None:
        return weights
    return dropout.weights(weights, rate, row.position[0], columns.position[0])


def _is_any_visible(row: Rows, columns: Columns) -> Array:
    return row.position[-1] >= columns.position[0]


def _nothing_new(before: Any) -> Any:
    return before


def _at(stacked: PyTree[Array], number: Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), stacked)


def _put(stacked: PyTree[Array], value: PyTree[Array], number: Array) -> Any:
    return jax.tree.map(
        lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, number, 0), stacked, value
    )
