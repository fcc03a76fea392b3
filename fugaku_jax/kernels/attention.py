"""Causal self-attention, forward and backward, in memory that grows with the length alone.

The native kernels go over blocks of queries and keys; the backward pass keeps the result and the
logarithm of each softmax's divisor, and computes the weights again. The reference in `jnp` takes a
block of queries at a time, which sees only the keys before its end, and keeps the operands.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec, reshard
from jaxtyping import Array, Float, Int

from fugaku_jax.kernels import native
from fugaku_jax.kernels.dropout import LEVELS, Dropout

MIN_BLOCK = 64
MAX_BLOCKS = 16


def attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    segment_ids: Int[Array, "B T"] | None = None,
    dropout: Dropout | None = None,
    dropout_rate: float = 0.0,
) -> Float[Array, "B T H K"]:
    """Let every position attend to itself and to what stands before it.

    Scores and softmax are fp32; the products are in the type of the operands, or in fp32.

    Args:
        k: keys, of as many heads as `q` or of fewer; then H / G neighbours in `q` share one.
        v: values, of as many heads as `k`.
        segment_ids: if given, a position sees only positions with its own number.
        dropout: draws the masks of the weights; None keeps them all.
        dropout_rate: probability of dropping a weight.

    Raises:
        ValueError: H is no multiple of G.

    Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1.
    """
    heads, groups = q.shape[2], k.shape[2]
    if heads % groups if groups else heads:
        raise ValueError(f"{heads} heads of queries cannot share {groups} heads of keys equally.")
    if q.dtype == k.dtype == v.dtype and _is_native(q):
        return _native((q, k, v), segment_ids, dropout, dropout_rate)
    return reference_attention(q, k, v, segment_ids, dropout, dropout_rate)


def packed_attention(
    qkv: Float[Array, "B T 3 H K"],
    segment_ids: Int[Array, "B T"] | None = None,
    dropout: Dropout | None = None,
    dropout_rate: float = 0.0,
) -> Float[Array, "B T H K"]:
    """Do so with queries, keys and values that lie in one array; none of them is copied."""
    if _is_native(qkv):
        return _native((qkv,), segment_ids, dropout, dropout_rate)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    return reference_attention(q, k, v, segment_ids, dropout, dropout_rate)


def _is_native(x: Array) -> bool:
    return x.dtype in native.DTYPES and native.enabled()


def _native(
    operands: tuple[Array, ...],
    segment_ids: Array | None,
    dropout: Dropout | None,
    dropout_rate: float,
) -> Array:
    """Bring whole rows of whole heads together, and run the native kernels."""
    rows, heads = _shared(operands)
    operands = tuple(_cut(x, rows, *[None] * (x.ndim - 3), heads, None) for x in operands)
    if segment_ids is not None:
        segment_ids = _cut(segment_ids.astype(jnp.int32), rows, None)
    numbers = jnp.zeros(3, jnp.uint32)
    if dropout is not None:
        first_row = jnp.asarray(dropout.first_row, jnp.uint32)
        numbers = jnp.append(jax.random.key_data(dropout.key), first_row)
    masks = _Masks(
        sequence_length=dropout.sequence_length if dropout else 0,
        dropped_levels=round(dropout_rate * LEVELS) if dropout else 0,
    )
    return _attend(operands, segment_ids, numbers, masks)


class _Masks(NamedTuple):
    """What is known of dropout's masks before the program runs."""

    sequence_length: int
    dropped_levels: int

    def attributes(self) -> dict[str, Any]:
        return {name: np.int64(value) for name, value in self._asdict().items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(
    operands: tuple[Array, ...], segment_ids: Array | None, numbers: Array, masks: _Masks
) -> Array:
    """Attend by native kernels, with q, k and v or the array of all three.

    Args:
        numbers: the words of the masks' key, and the number of the first row.
        masks: whatever else says which weights are dropped.
    """
    return _forward(operands, segment_ids, numbers, masks)[0]


def _forward(
    operands: tuple[Array, ...], segment_ids: Array | None, numbers: Array, masks: _Masks
) -> tuple[Array, Any]:
    count, (rows, heads) = len(operands), _shared(operands)

    def local(*given: Array) -> tuple[Array, Array]:
        q, numbers = given[0], _local_numbers(given[0], given[count], rows, heads)
        (batch, length), (head_count, head_dim) = q.shape[:2], q.shape[-2:]
        out, log_sum = native.call(
            "attention_forward",
            [
                jax.ShapeDtypeStruct((batch, length, head_count, head_dim), q.dtype),
                jax.ShapeDtypeStruct((batch, head_count, length), jnp.float32),
            ],
            *_three(given[:count]),
            numbers,
            *given[count + 1 :],
            **masks.attributes(),
        )
        return out, log_sum

    results = PartitionSpec(rows, None, heads, None), PartitionSpec(rows, heads, None)
    segments = [] if segment_ids is None else [segment_ids]
    out, log_sum = native.on_each_device(local, results, *operands, numbers, *segments)
    return out, (operands, segment_ids, numbers, out, log_sum)


def _backward(masks: _Masks, kept: Any, d_out: Array) -> tuple[tuple[Array, ...], None, None]:
    operands, segment_ids, numbers, out, log_sum = kept
    count, (rows, heads) = len(operands), _shared(operands)

    def local(*given: Array) -> tuple[Array, ...]:
        numbers = _local_numbers(given[0], given[count], rows, heads)
        return tuple(
            native.call(
                "attention_backward",
                [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in given[:count]],
                *_three(given[:count]),
                numbers,
                *given[count + 1 :],
                **masks.attributes(),
            )
        )

    results = tuple(jax.typeof(x).sharding.spec for x in operands)
    segments = [] if segment_ids is None else [segment_ids]
    d_out = _cut(d_out, rows, None, heads, None)
    others = out, log_sum, d_out, *segments
    return native.on_each_device(local, results, *operands, numbers, *others), None, None


_attend.defvjp(_forward, _backward)


def _three(operands: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return q, k and v, which may be one array."""
    return operands if len(operands) == 3 else operands * 3


def _shared(operands: tuple[Array, ...]) -> tuple[Any, Any]:
    """Return the mesh axes that share the rows and the heads."""
    spec = jax.typeof(operands[0]).sharding.spec
    return spec[0], spec[-2]


def _cut(x: Array, *entries: Any) -> Array:
    part = PartitionSpec(*entries)
    return x if jax.typeof(x).sharding.spec == part else reshard(x, part)


def _local_numbers(q: Array, numbers: Array, rows: Any, heads: Any) -> Array:
    """Return the masks' numbers for this device: their key, the first row and the first head."""

    def first(axes: Any, size: int) -> Array:
        index = jax.lax.axis_index(axes) if axes else jnp.zeros((), jnp.int32)
        return (index * size).astype(jnp.uint32)

    row = numbers[2] + first(rows, q.shape[0])
    return jnp.stack([numbers[0], numbers[1], row, first(heads, q.shape[-2])])


def reference_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G K"],
    segment_ids: Int[Array, "B T"] | None = None,
    dropout: Dropout | None = None,
    dropout_rate: float = 0.0,
) -> Float[Array, "B T H K"]:
    """Do so in `jnp`, a block of queries at a time."""
    if q.size == 0:
        return q
    length, head_dim = q.shape[1], q.shape[3]
    k, v = (one_for_each_query(x, q) for x in (k, v))
    q = q * jnp.asarray(1 / math.sqrt(head_dim), q.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    block = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    outputs = []
    for start in range(0, length, block):
        bounds = start, min(start + block, length)
        outputs.append(_attend_from(q, k, v, segment_ids, dropout, dropout_rate, bounds))
    return jnp.swapaxes(jnp.concatenate(outputs, axis=2), 1, 2)


def one_for_each_query(
    x: Float[Array, "B T G K"], q: Float[Array, "B T H K"]
) -> Float[Array, "B T H K"]:
    """Repeat heads of keys or values, for each head of queries to have one of its own."""
    shared = q.shape[2] // x.shape[2]
    return x if shared == 1 else jnp.repeat(x, shared, axis=2, out_sharding=jax.typeof(q).sharding)


@functools.partial(jax.checkpoint, static_argnums=(5, 6))
def _attend_from(
    q: Float[Array, "B H T K"],
    k: Float[Array, "B H T K"],
    v: Float[Array, "B H T K"],
    segment_ids: Int[Array, "B T"] | None,
    dropout: Dropout | None,
    dropout_rate: float,
    bounds: tuple[int, int],
) -> Float[Array, "B H Q K"]:
    """Attend from the block of queries within `bounds` to all keys before its end.

    What the backward pass keeps are the arguments; blocks cut outside would be kept beside them.
    """
    start, stop = bounds
    q, k, v = q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop]
    scores = jnp.einsum("bhqk,bhsk->bhqs", q, k, preferred_element_type=jnp.float32)
    visible = (jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None, :])[None, None]
    if segment_ids is not None:
        same = segment_ids[:, start:stop, None] == segment_ids[:, None, :stop]
        visible &= same[:, None]
    # Every position sees itself, so a large negative number does what -inf would.
    weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1).astype(v.dtype)
    if dropout is not None:
        weights = dropout.weights(weights, dropout_rate, first_query=start)
    return jnp.einsum("bhqs,bhsk->bhqk", weights, v)
