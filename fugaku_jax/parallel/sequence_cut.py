"""How attention cuts up a sequence that several devices share; `ring_attention` says why.

Device i holds shard i. The queries of a shard are cut into as many pieces as there are devices, and
a piece into blocks; the keys of a shard are cut into slices. A shard need not divide: what pads the
queries is dropped on the way home, what pads the keys stands after everything and is not seen.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jaxtyping import Array, Float, Int

from fugaku_jax.collectives.sums import Placed, all_gather, reduce_scatter

MAX_BLOCK = 128
"""Queries whose weights are in memory at a time."""


class Rows(NamedTuple):
    """Queries of this device, with a leading axis of blocks (below R), or one block of them."""

    q: Array
    """`[R, B, H, Q, K]`"""
    position: Array
    """`[R, Q]`"""
    segment_ids: Array | None
    """`[R, B, Q]`"""


class Columns(NamedTuple):
    """A slice of the keys and values of one shard."""

    k: Array
    """`[B, H, C, K]`"""
    v: Array
    """`[B, H, C, K]`"""
    position: Array
    """`[C]`"""
    segment_ids: Array | None
    """`[B, C]`"""


@dataclass(frozen=True)
class SequenceCut:
    """The cut of a sequence; all that takes arrays is for where `axes` are manual."""

    axes: tuple[str, ...]
    """Mesh axes that share the sequence, the outermost first."""
    devices: int
    """Devices along them, n; at once the number of shards, and of a shard's pieces."""
    length: int
    """Positions of a shard."""

    @property
    def blocks(self) -> int:
        """Blocks of a piece; a device has n times as many (R)."""
        return -(-self.length // (self.devices * MAX_BLOCK))

    @property
    def block(self) -> int:
        """Queries of a block (Q)."""
        return -(-self.length // (self.devices * self.blocks))

    @property
    def width(self) -> int:
        """Keys of a slice (C): a multiple of 4, as masks of dropout want it."""
        return 4 * -(-self.length // (4 * self.devices))

    @property
    def slices(self) -> int:
        """Slices of a shard (M), at most n."""
        return -(-self.length // self.width)

    def pairs(self) -> tuple[Int[Array, "pairs"], Int[Array, "pairs"]]:
        """Return the blocks of queries and the shards whose keys they may see, pair by pair."""
        block, shard = np.nonzero(np.tri(self.devices).repeat(self.blocks, axis=0))
        return jnp.asarray(block), jnp.asarray(shard)

    def spread(self, x: Float[Array, "B H T_own K"]) -> Float[Array, "R B H Q K"]:
        """Give every device a piece of each shard; return this device's, as blocks."""
        x = _padded(x, 2, self._padded_length)
        x = x.reshape(*x.shape[:2], self.devices, -1, x.shape[3])
        x = self._exchange(self._in_order(x))
        x = x.reshape(*x.shape[:2], self._padded_length, x.shape[4])
        x = x.reshape(*x.shape[:2], -1, self.block, x.shape[3])
        return jnp.moveaxis(x, 2, 0)

    def bring_home(self, blocks: Float[Array, "R B H Q K"]) -> Float[Array, "B H T_own K"]:
        """Undo `spread`."""
        x = jnp.moveaxis(blocks, 0, 2)
        x = x.reshape(*x.shape[:2], self._padded_length, x.shape[4])
        x = x.reshape(*x.shape[:2], self.devices, -1, x.shape[3])
        x = self._in_order(self._exchange(x))
        x = x.reshape(*x.shape[:2], self._padded_length, x.shape[4])
        return x[:, :, : self.length]

    def rows(self, q: Float[Array, "B H T_own K"], segment_ids: Int[Array, "B T"] | None) -> Rows:
        """Spread queries, with what is known of them.

        Args:
            segment_ids: of the whole sequence.
        """
        device, shards = jax.lax.axis_index(self.axes), jnp.arange(self.devices)
        order = jnp.where(shards % 2 == 0, device, self.devices - 1 - device)
        piece = self.blocks * self.block
        first = shards * self.length + order * piece
        position = (first[:, None] + jnp.arange(piece)).reshape(-1, self.block)
        ids = None
        if segment_ids is not None:
            # Those of padding matter to nobody.
            ids = jnp.moveaxis(segment_ids.at[:, position].get(mode="clip"), 0, 1)
        return Rows(self.spread(q), position, ids)

    def cut_keys(
        self, k: Float[Array, "B H T_own K"], v: Float[Array, "B H T_own K"]
    ) -> Float[Array, "M 2 B H C K"]:
        """Cut this device's keys and values into slices; a leading axis counts these."""
        kv = _padded(jnp.stack([k, v]), 3, self.slices * self.width)
        kv = kv.reshape(*kv.shape[:3], self.slices, self.width, kv.shape[4])
        return jnp.moveaxis(kv, 3, 0)

    def join_keys(self, slices: Float[Array, "M 2 B H C K"]) -> Float[Array, "2 B H T_own K"]:
        """Undo `cut_keys`."""
        kv = jnp.moveaxis(slices, 0, 3)
        kv = kv.reshape(*kv.shape[:3], self.slices * self.width, kv.shape[5])
        return kv[:, :, :, : self.length]

    def gather(self, keys: Float[Array, "2 B H C K"]) -> Float[Array, "n 2 B H C K"]:
        """Bring a slice of every shard together."""
        return all_gather(keys[None], self._placed)

    def scatter(self, gradients: Float[Array, "n 2 B H C K"]) -> Float[Array, "2 B H C K"]:
        """Sum the gradients of gathered slices over devices; each receives those of its own."""
        return reduce_scatter(gradients, self._placed)[0]

    def columns(
        self,
        keys: Float[Array, "2 B H C K"],
        shard: Int[Array, ""],
        number: Int[Array, ""],
        segment_ids: Int[Array, "B T"] | None,
    ) -> Columns:
        """Return a slice with what is known of it.

        Args:
            shard: whose it is.
            number: which of the shard's it is.
            segment_ids: of the whole sequence.
        """
        inside = number * self.width + jnp.arange(self.width)
        after_all = self.devices * (self.length + self._padded_length)
        position = jnp.where(inside < self.length, shard * self.length + inside, after_all)
        ids = None if segment_ids is None else segment_ids.at[:, position].get(mode="clip")
        return Columns(keys[0], keys[1], position, ids)

    @property
    def _padded_length(self) -> int:
        """Queries of a shard, padding counted."""
        return self.devices * self.blocks * self.block

    @property
    def _placed(self) -> Placed:
        """The leading dimension counts shards."""
        return tuple((axis, 0) for axis in self.axes)

    def _exchange(self, pieces: Array) -> Array:
        """Send the i-th piece to device i; receive one of each shard."""
        swap = functools.partial(
            jax.lax.all_to_all, axis_name=self.axes, split_axis=2, concat_axis=2, tiled=True
        )
        mesh = jax.sharding.get_abstract_mesh()
        kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
        explicit = {axis for axis, kind in kinds if kind == AxisType.Explicit}
        if not explicit:
            return swap(pieces)
        # XLA would bring the heads of all devices together first.
        spec = jax.typeof(pieces).sharding.spec
        return jax.shard_map(
            swap, in_specs=spec, out_specs=spec, axis_names=explicit, check_vma=False
        )(pieces)

    def _in_order(self, pieces: Array) -> Array:
        """Reverse the pieces of odd shards, so that early and late ones even out."""
        odd = jax.lax.axis_index(self.axes) % 2 == 1
        return jnp.where(odd, jnp.flip(pieces, 2), pieces)


def _padded(x: Array, dimension: int, size: int) -> Array:
    """Return an array that is as long as it should be, with zeros at the end."""
    widths = [(0, 0)] * x.ndim
    widths[dimension] = (0, size - x.shape[dimension])
    return jnp.pad(x, widths)
