"""Which documents pull the weights the way that a prompt would: gradients that point the same way.

The gradient of a loss says how the weights would change for it to fall. If that of a document and
that of a prompt point the same way, a step on the one makes the other more probable, to first order
and at these weights. It is TracIn with one checkpoint and without the optimizer's part.

Source: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent"
(https://arxiv.org/abs/2002.08484).
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int32, PyTree

from fugaku_jax.config import Config
from fugaku_jax.data.batch import Batch, document_segments
from fugaku_jax.errors import InputError
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.models.gpt import GPT
from fugaku_jax.tracing.rows import stated
from fugaku_jax.tracing.sightings import traced_document
from fugaku_jax.tracing.traced_run import TracedRun

Gradient = PyTree[Float[Array, "..."]]
_TRIES = 20
"""Draws for each document that is wanted at random, of which some come twice."""


@dataclass(frozen=True)
class Candidate:
    """A training document."""

    document: str
    set: str
    source: str
    licence: str | None
    set_index: int
    first_token: int
    tokens: int
    """How many it has, its end included."""


@dataclass(frozen=True)
class Influence:
    """How the gradient of a document lies to that of a prompt."""

    document: str
    set: str
    source: str
    licence: str | None
    cosine: float
    """Of the angle between them: 1 if they point the same way."""
    dot: float
    """Their product: what the prompt's loss falls by, per unit of learning rate, in a step of plain
    gradient descent on the document. Both losses are means of their tokens, in nats."""

    def __str__(self) -> str:
        about = f"{self.document}, {self.source}, {stated(self.licence)}"
        return f"cosine {self.cosine:+.4f}, dot {self.dot:+.4g}: {about}"


class TextGradient:
    """Gives the gradient of the mean loss of texts over all weights, in fp32 without dropout.

    A text follows an end-of-document token, and is cut in windows of the model's sequence length.

    Args:
        config: of the run.
        model: its weights, whole in every tensor group.
        end_of_document: that token.
    """

    def __init__(self, config: Config, model: GPT, end_of_document: int) -> None:
        self._length, self._end = config.model.sequence_length, end_of_document
        self._resets = config.data.reset_at_document
        self._structure, self._weights = nnx.split(model)
        self._mesh, self._rows = mesh_of(self._weights), model.rules.parts("batch")
        self._sharding = NamedSharding(self._mesh, model.rules.spec("batch", None))

    def __call__(self, tokens: Int32[np.ndarray, "N"]) -> Gradient:
        """Return the gradient; a text of no tokens is a ValueError."""
        if not len(tokens):
            raise ValueError("A text without tokens has no loss.")
        total = None
        with active(self._mesh):
            for batch in self._batches(tokens):
                found = _gradient(self._structure, self._weights, batch)
                total = found if total is None else jax.tree.map(jnp.add, total, found)
        return total

    def _batches(self, tokens: Int32[np.ndarray, "N"]) -> Iterable[Batch]:
        size, N = self._rows * self._length, len(tokens)
        window = np.arange(self._rows)[:, None] * self._length + np.arange(self._length + 1)
        stream = np.concatenate([[self._end], tokens, np.zeros(-N % size)]).astype(np.int32)
        weights = (np.arange(len(stream) - 1) < N).astype(np.float32) / N
        for first in range(0, N, size):
            cut = stream[first + window]
            batch = Batch(cut, weights[first : first + size].reshape(self._rows, self._length))
            if self._resets:
                batch = replace(batch, segments=document_segments(cut, self._end))
            yield jax.tree.map(self._placed, batch)

    def _placed(self, block: np.ndarray) -> Array:
        return jax.make_array_from_callback(block.shape, self._sharding, block.__getitem__)

    def dot(self, one: Gradient, other: Gradient) -> float:
        """Return the product of two gradients, added up over the arrays in float64."""
        with active(self._mesh):
            products = jax.device_get(jax.tree.leaves(_products(one, other)))
        return math.fsum(map(float, products))


def influences(
    run: TracedRun, gradient: TextGradient, prompt: str, candidates: Iterable[Candidate]
) -> list[Influence]:
    """Return how the gradients of documents lie to that of a prompt, the nearest first.

    Beside the weights it takes the memory of two gradients: the prompt's, and one document's.

    Raises:
        InputError: the prompt has no tokens, or is not Unicode.
    """
    tokens = np.array(run.tokenizer.encode(prompt), np.int32)
    if not len(tokens):
        raise InputError("--prompt is empty; give a text.")
    wanted = gradient(tokens)
    size = gradient.dot(wanted, wanted)
    found = []
    for each in candidates:
        place = np.array([each.first_token])
        own = gradient(run.store.read(each.set_index, "train", place, each.tokens)[0])
        dot, scale = gradient.dot(wanted, own), math.sqrt(size * gradient.dot(own, own))
        about = each.document, each.set, each.source, each.licence
        found.append(Influence(*about, dot / scale if scale else 0.0, dot))
    return sorted(found, key=lambda each: -each.cosine)


def seen_documents(run: TracedRun, documents: Sequence[str]) -> list[Candidate]:
    """Return the documents of these ids, which the run sees, in each set that has them.

    Raises:
        InputError: there is no such document, or no step reads it.
    """
    names = [each.name for each in run.store.sets]
    found = {}
    for document in documents:
        traced = [each for each in traced_document(run, document) if each.seen]
        places = [(names.index(each.set), each.seen[0]) for each in traced]
        if not places:
            raise InputError(f"document {document}: no step of {run.run_dir} reads it.")
        for index, sighting in places:
            start = int(run.order.locate(sighting.step - 1)[1][sighting.row])
            found[index, document] = _candidate(run, index, start + sighting.first_column)
    return list(found.values())


def some_seen_documents(run: TracedRun, count: int, seed: int = 0) -> list[Candidate]:
    """Return so many documents of the steps taken so far, at random; fewer if it has no more.

    Raises:
        InputError: the run has taken no step.
    """
    taken, random, found = run.steps_taken(), np.random.default_rng(seed), {}
    if not taken:
        raise InputError(f"{run.run_dir} has taken no step yet; train it first.")
    for _ in range(_TRIES * count):
        sets, starts, _ = run.order.locate(int(random.integers(taken)))
        row = int(random.integers(len(sets)))
        token = int(starts[row]) + int(random.integers(run.order.sequence_length + 1))
        each = _candidate(run, int(sets[row]), token)
        found[each.set_index, each.document] = each
        if len(found) == count:
            break
    return list(found.values())


def _candidate(run: TracedRun, set_index: int, token: int) -> Candidate:
    """Return the document in which a training token lies."""
    (each,) = run.documents_in(set_index, token, token)
    about = each["source"], each["licence"]
    name = run.store.sets[set_index].name
    return Candidate(each["id"], name, *about, set_index, each["start"], each["length"])


@functools.partial(jax.jit, static_argnums=0)
def _gradient(structure: nnx.GraphDef[GPT], weights: Any, batch: Batch) -> Any:
    def loss(weights: Any) -> Float[Array, ""]:
        model = nnx.merge(structure, weights)
        hidden = model(batch.tokens[:, :-1], segment_ids=batch.segments)
        return model.loss(hidden, batch.tokens[:, 1:], batch.weights)[0]

    return jax.grad(loss)(weights)


@jax.jit
def _products(one: Any, other: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.sum(x * y), one, other)
