"""How probable a model holds what follows a text: many such requests, few programs.

Requests of a like length are computed together. The logits of what is asked about alone are
computed, since a small model's largest product is that of its vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, reshard
from jaxtyping import Array, Bool, Float, Int, PyTree

from fugaku_jax.errors import InputError
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.models.gpt import GPT

BATCH_TOKENS = 4096
"""Tokens of a batch, padding included."""
_WIDTH = 32  # tokens by which lengths differ
Following = tuple[Sequence[int], Sequence[int]]
"""The tokens of a text, at least one, and those that follow it, at least one."""


class _Batch(NamedTuple):
    tokens: Int[np.ndarray, "B T"]
    positions: Int[np.ndarray, "B N"]
    """Where what follows is predicted from, from the left; what is left over is 0."""
    targets: Int[np.ndarray, "B N"]


class Likelihoods:
    """A model that is asked how probable texts are."""

    def __init__(self, model: GPT, dtype: str) -> None:
        """Args: the model, and the type of the arithmetic."""
        self._structure, self._weights = nnx.split(model)
        self._mesh, self._rules, self._dtype = mesh_of(self._weights), model.rules, dtype
        self._length = model.config.sequence_length

    def __call__(self, requests: Sequence[Following]) -> list[tuple[float, bool]]:
        """Return for each request the logarithm of the probability of what follows, in nats.

        With it, whether it is what the model holds most probable, token by token. What is longer
        than the model is cut from the left.

        Raises:
            InputError: what follows has no room in the model.
        """
        for _, following in requests:
            if len(following) > self._length:
                raise InputError(
                    f"A continuation has {len(following)} tokens, but the model has "
                    f"{self._length} positions in all."
                )
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for some in self._batches(requests):
            log_probs, greedy = self._scored(self._filled([requests[row] for row in some]))
            for place, row in enumerate(some):
                count = len(requests[row][1])
                total = float(np.sum(log_probs[place, :count], dtype=np.float64))
                found[row] = total, bool(np.all(greedy[place, :count]))
        return found

    def _batches(self, requests: Sequence[Following]) -> Iterator[list[int]]:
        """Yield which requests are computed together, the longest first."""
        order = sorted(range(len(requests)), key=lambda row: -sum(map(len, requests[row])))
        while order:
            width = self._width([requests[order[0]]])
            count = max(1, BATCH_TOKENS // width // self._devices) * self._devices
            some, order = order[:count], order[count:]
            yield some

    @property
    def _devices(self) -> int:
        return self._rules.parts("batch")

    def _width(self, requests: Sequence[Following]) -> int:
        longest = max(sum(map(len, each)) for each in requests) - 1
        return min(self._length, -(-longest // _WIDTH) * _WIDTH)

    def _filled(self, requests: Sequence[Following]) -> _Batch:
        """Return requests as arrays whose sizes are few, so that few programs are compiled."""
        count = -(-_power_of_two(len(requests)) // self._devices) * self._devices
        most = min(self._length, _power_of_two(max(len(each) for _, each in requests)))
        tokens = np.zeros((count, self._width(requests)), np.int32)
        positions, targets = np.zeros((2, count, most), np.int32)
        for place, (before, following) in enumerate(requests):
            row = [*before, *following][-(self._length + 1) :]
            tokens[place, : len(row) - 1] = row[:-1]
            number = len(following)
            positions[place, :number] = np.arange(len(row) - 1 - number, len(row) - 1)
            targets[place, :number] = following
        return _Batch(tokens, positions, targets)

    def _scored(self, batch: _Batch) -> tuple[Float[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]:
        sharding = NamedSharding(self._mesh, self._rules.spec("batch", None))
        placed = [
            jax.make_array_from_callback(each.shape, sharding, each.__getitem__) for each in batch
        ]
        with active(self._mesh):
            scored = _score(self._structure, self._dtype, self._weights, *placed)
        log_probs, greedy = map(np.asarray, scored)
        return log_probs, greedy


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
    structure: nnx.GraphDef[GPT],
    dtype: str,
    weights: PyTree[Float[Array, "..."]],
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B N"],
    targets: Int[Array, "B N"],
) -> tuple[Float[Array, "B N"], Bool[Array, "B N"]]:
    """Return the logarithm of each target's probability, and whether none is more probable."""
    model = nnx.merge(structure, weights)
    hidden = model(tokens, dtype=dtype)
    wanted = model.rules.spec("batch", None, None)
    hidden = jnp.take_along_axis(reshard(hidden, wanted), positions[:, :, None], axis=1)
    logits = reshard(model.logits(hidden), wanted)
    chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0]
    log_probs = chosen - jax.nn.logsumexp(logits, axis=2)
    return log_probs, jnp.argmax(logits, axis=2) == targets
