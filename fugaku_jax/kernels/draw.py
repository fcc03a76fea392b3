"""A token drawn of each row of logits: after temperature, of the k most probable, of a total p.

What may be drawn is as in `transformers`, in its order. A row is drawn by one random number: the
first token at which the probabilities of all up to it are more than that.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fugaku_jax.kernels import native


def draw(
    logits: Float[Array, "R V"],
    candidates: Int[Array, ""],
    temperature: Float[Array, " R"],
    top_k: Int[Array, " R"],
    top_p: Float[Array, " R"],
    uniform: Float[Array, " R"],
) -> Int[Array, " R"]:
    """Draw tokens; 0 where the temperature is, or where the greatest logit is not finite.

    Args:
        logits: fp32; a device has whole rows.
        candidates: how many, of the first, may be drawn.
        temperature: what logits are divided by.
        top_k: only so many of the most probable tokens may be drawn; 0 for all.
        top_p: only the fewest tokens that have this much probability together may be drawn.
        uniform: of each row, from 0 to below 1.
    """

    def local(logits: Array, *given: Array) -> Array:
        if not native.enabled():
            return reference_draw(logits, *given)
        [which] = native.call(
            "draw", [jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32)], logits, *given
        )
        return which

    rows = PartitionSpec(*jax.typeof(logits).sharding.spec[:-1])
    given = candidates.astype(jnp.int32), temperature, top_k, top_p, uniform
    return native.on_each_device(local, rows, logits, *given)


def reference_draw(
    logits: Float[Array, "R V"],
    candidates: Int[Array, ""],
    temperature: Float[Array, " R"],
    top_k: Int[Array, " R"],
    top_p: Float[Array, " R"],
    uniform: Float[Array, " R"],
) -> Int[Array, " R"]:
    """Do so in `jnp`."""
    known, warm = jnp.arange(logits.shape[1]) < candidates, temperature > 0
    x = jnp.where(known, logits, -jnp.inf) / jnp.where(warm, temperature, 1)[:, None]
    usable = warm & jnp.isfinite(x.max(-1, initial=-jnp.inf))
    for keep, amount, asked in ((keep_top_k, top_k, top_k > 0), (keep_top_p, top_p, top_p < 1)):
        x = jax.lax.cond(jnp.any(asked), keep, lambda x, _: x, x, amount)
    sums = jnp.cumsum(jax.nn.softmax(x), axis=-1)
    which = jnp.argmax(sums > (uniform * sums[:, -1])[:, None], axis=-1)
    return jnp.where(usable, which, 0).astype(jnp.int32)


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
