"""Dropout whose masks know nothing of the mesh.

A mask is a function of a key and of which element of the whole batch it falls on: row, position,
feature or head. Any device, any micro-batch and any stage of a pipeline therefore draws the same
mask for the same element, without drawing the rest. The generator counts: a counter in, 64 random
bits out, which serve four elements.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Threefry-2x32-20);
Srivastava et al., "Dropout", JMLR 15, 2014.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

LEVELS = 1 << 16
"""Steps of the probability of dropping, which is rounded to one of them."""
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dropout:
    """Draws the masks of a batch, or of the part of it that begins at a row and a position.

    The probability of dropping is rounded to a multiple of 1/65,536.
    """

    # JAX rebuilds the object around leaves of any kind, so the types stand in the words.
    key: Any
    """Key of the masks, `Key[Array, ""]`."""
    sequence_length: int = field(metadata={"static": True})
    """Positions of a row, all parts counted (T)."""
    first_row: Any = 0
    """Number, in the whole batch of the step, of the first row at hand; traced or not."""
    first_position: Any = 0
    """Number of the first position at hand; traced or not."""

    def fold(self, number: Int[Array, ""] | int) -> "Dropout":
        """Return independent masks for the layer or place of this number."""
        return replace(self, key=jax.random.fold_in(self.key, number))

    def hidden(self, x: Float[Array, "B T D"], rate: float) -> Float[Array, "B T D"]:
        """Zero each element with probability `rate`; scale the rest to keep the mean."""
        first = (self.first_row, self.first_position, 0)
        return self._drop(x, rate, first, high=(self.sequence_length, 1, 0), low=(0, 0, 1))

    def weights(
        self,
        weights: Float[Array, "B H Q S"],
        rate: float,
        first_query: Int[Array, ""] | int,
        first_key: Int[Array, ""] | int = 0,
    ) -> Float[Array, "B H Q S"]:
        """Do so with the attention weights of queries and keys that begin at these positions.

        Args:
            first_key: a multiple of 4.
        """
        first = (self.first_row, 0, first_query, first_key)
        row_of_head = -(-self.sequence_length // 4)
        high, low = (self.sequence_length, 0, 1, 0), (0, row_of_head, 0, 1)
        return self._drop(weights, rate, first, high, low)

    def _drop(
        self,
        x: Array,
        rate: float,
        first: tuple[Int[Array, ""] | int, ...],
        high: tuple[int, ...],
        low: tuple[int, ...],
    ) -> Array:
        """Drop by the counter whose words are the sums of `index x high` and `index x low`.

        An index is an element's own along a dimension, `first` included, by four in the last.
        """
        dropped_levels = round(rate * LEVELS)
        if dropped_levels == 0:
            return x
        *rest, size = x.shape
        shape = (*rest, -(-size // 4))
        sharding = jax.typeof(x).sharding
        words = []
        for weights in (high, low):
            word = jnp.zeros(shape, jnp.uint32, out_sharding=sharding)
            for dimension, weight in enumerate(weights):
                if weight:
                    start = jnp.asarray(first[dimension], jnp.uint32)
                    start = start // 4 if dimension == len(rest) else start
                    index = jax.lax.broadcasted_iota(
                        jnp.uint32, shape, dimension, out_sharding=sharding
                    )
                    word += (index + start) * jnp.uint32(weight)
            words.append(word)
        bits = _threefry(self.key, *words)
        bits = jnp.stack(
            [half for word in bits for half in (word & 0xFFFF, word >> 16)], axis=-1
        ).astype(jnp.uint16)
        bits = jnp.reshape(bits, (*rest, 4 * shape[-1]), out_sharding=sharding)[..., :size]
        scale = LEVELS / (LEVELS - dropped_levels)
        kept = x * jnp.asarray(scale, x.dtype)
        return jnp.where(bits >= dropped_levels, kept, jnp.zeros((), x.dtype))


def _threefry(
    key: Key[Array, ""], high: UInt32[Array, "*shape"], low: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Return 64 random bits a counter, as JAX's own `threefry2x32` gives them."""
    first, second = jax.random.key_data(key)
    schedule = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    x, y = high + schedule[0], low + schedule[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x += y
            y = (y << rotation) | (y >> (32 - rotation))
            y ^= x
        x += schedule[(group + 1) % 3]
        y += schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y
