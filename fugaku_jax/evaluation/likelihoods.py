"""How probable a model holds what follows a text: many such requests, few programs.

What requests begin with alike is computed once (`prefix_trees`), and so are the logits after it,
of the places that are asked about alone: a small model's largest product is that of its vocabulary.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, reshard
from jaxtyping import Array, Float, Int, PyTree

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.prefix_trees import AT_A_PLACE, TreeRow, pack_trees
from fugaku_jax.kernels.attention import one_for_each_query
from fugaku_jax.kernels.greatest import greatest
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.models.gpt import GPT, Inputs, Operands

BATCH_TOKENS = 4096
"""Tokens of a batch, padding included."""
SHORTEST_ROW = 256
"""Fewest tokens of a row, padding included."""
LOGITS_AT_ONCE = 256
"""Places of a batch whose logits are held at once."""
QUERIES_AT_ONCE = 256
"""Places of a row whose attention is held at once."""
Following = tuple[Sequence[int], Sequence[int]]
"""The tokens of a text, at least one, and those that follow it."""


class _Batch(NamedTuple):
    tokens: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    ends: Int[Array, "B T"]
    """The place behind each token's last descendant, in its tree."""
    places: Int[Array, "B E"]
    targets: Int[Array, "B E A"]


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
        for length, rows in self._batches(requests):
            log_probs, best = self._scored(rows, length)
            for number, row in enumerate(rows):
                for owner, answers in zip(row.owners, row.answers, strict=True):
                    values = [log_probs[number, each.entry, each.number] for each in answers]
                    likely = (
                        best[number, each.entry] == row.targets[each.entry][each.number]
                        for each in answers
                    )
                    found[owner] = math.fsum(values), all(likely)
        return found

    def _batches(self, requests: Sequence[Following]) -> Iterator[tuple[int, Sequence[TreeRow]]]:
        """Yield rows that are computed together, and their length: of texts of a like length."""
        of_length: dict[int, list[tuple[int, list[int], list[int]]]] = {}
        for owner, (before, following) in enumerate(requests):
            text = [*before, *following][-(self._length + 1) :][:-1]
            length = max(SHORTEST_ROW, _power_of_two(len(text)))
            of_length.setdefault(length, []).append((owner, text, list(following)))
        devices = self._rules.parts("batch")
        for length, texts in sorted(of_length.items(), reverse=True):
            count = max(1, BATCH_TOKENS // length // devices) * devices
            rows = list(pack_trees(texts, length))
            for first in range(0, len(rows), count):
                yield length, rows[first : first + count]

    def _scored(
        self, rows: Sequence[TreeRow], length: int
    ) -> tuple[Float[np.ndarray, "B E A"], Int[np.ndarray, "B E"]]:
        devices = self._rules.parts("batch")
        count = -(-_power_of_two(len(rows)) // devices) * devices
        tokens, positions = np.zeros((2, count, length), np.int32)
        ends = np.full((count, length), length, np.int32)
        places = np.zeros((count, 2 * length), np.int32)
        targets = np.zeros((count, 2 * length, AT_A_PLACE), np.int32)
        for number, row in enumerate(rows):
            here = slice(len(row.tokens))
            tokens[number, here], positions[number, here] = row.tokens, row.positions
            ends[number, here], places[number, : len(row.places)] = row.ends, row.places
            for entry, asked in enumerate(row.targets):
                targets[number, entry, : len(asked)] = asked
        batch = _Batch(*map(self._placed, (tokens, positions, ends, places, targets)))
        at_once = max(1, LOGITS_AT_ONCE // _power_of_two(count))
        chunks = -(-max(len(row.places) for row in rows) // at_once)
        with active(self._mesh):
            scored = _score(
                self._structure, self._dtype, at_once, self._weights, batch, np.int32(chunks)
            )
        log_probs, best = map(np.asarray, scored)
        return log_probs, best

    def _placed(self, array: Int[np.ndarray, "B ..."]) -> Array:
        sharding = NamedSharding(self._mesh, self._rules.spec("batch", *[None] * (array.ndim - 1)))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
    structure: nnx.GraphDef[GPT],
    dtype: str,
    at_once: int,
    weights: PyTree[Float[Array, "..."]],
    batch: _Batch,
    chunks: Int[Array, ""] | Any,
) -> tuple[Float[Array, "B E A"], Int[Array, "B E"]]:
    """Return the logarithm of each target's probability, and the most probable token.

    Args:
        at_once: entries of a row whose logits are held at once.
        chunks: so many times so many entries are computed; of the rest all is 0.
    """
    model = nnx.merge(structure, weights)
    wanted, vocabulary = model.rules.spec("batch", None, None), model.config.vocab_size
    hidden = reshard(_hidden(model, batch, dtype), wanted)

    def one(number: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        first, (log_probs, best) = number * at_once, found
        places, targets = (
            jax.lax.dynamic_slice_in_dim(each, first, at_once, 1)
            for each in (batch.places, batch.targets)
        )
        here = jnp.take_along_axis(hidden, places[:, :, None], axis=1)
        logits = reshard(model.padded_logits(here), wanted)
        top, log_sum = greatest(logits, vocabulary, vocabulary)
        chosen = jnp.take_along_axis(logits, targets, axis=2) - log_sum[:, :, None]
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=1)
        return write(log_probs, chosen), write(best, top)

    nothing = (
        jnp.zeros_like(batch.targets, jnp.float32),
        jnp.zeros_like(batch.places),
    )
    return jax.lax.fori_loop(0, chunks, one, nothing)


def _hidden(model: GPT, batch: _Batch, dtype: str) -> Float[Array, "B T D"]:
    """Return the normalised hidden states of trees."""
    structure, weights = nnx.split(model.blocks)

    def attention(operands: Operands) -> tuple[Float[Array, "B T H K"], None]:
        return _attend(operands, batch.ends), None

    def layer(x: Array, weights: Any) -> tuple[Array, None]:
        return nnx.merge(structure, weights)(x, batch.positions, attention)[0], None

    start = model.embed(Inputs(batch.tokens, batch.positions), dtype)
    return model.norm(jax.lax.scan(layer, start, weights)[0])


def _attend(operands: Operands, ends: Int[Array, "B T"]) -> Float[Array, "B T H K"]:
    """Let every token attend to itself and those that it goes on from.

    Scores and softmax are fp32, as `kernels.attention` has it.
    """
    q, k, v = operands if len(operands) == 3 else jnp.unstack(operands[0], axis=2)
    k, v = (one_for_each_query(x, q) for x in (k, v))
    q = q * jnp.asarray(1 / math.sqrt(q.shape[3]), q.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    outputs, length = [], q.shape[2]
    for start in range(0, length, QUERIES_AT_ONCE):
        stop = min(start + QUERIES_AT_ONCE, length)
        here, before = jnp.arange(start, stop)[:, None], jnp.arange(stop)[None, :]
        visible = (before <= here) & (here < ends[:, None, :stop])
        scores = jnp.einsum(
            "bhqk,bhsk->bhqs",
            q[:, :, start:stop],
            k[:, :, :stop],
            preferred_element_type=jnp.float32,
        )
        shares = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e30), axis=-1)
        outputs.append(jnp.einsum("bhqs,bhsk->bhqk", shares.astype(v.dtype), v[:, :, :stop]))
    return jnp.swapaxes(jnp.concatenate(outputs, axis=2), 1, 2)
