"""How well a model predicts held-out text: nats a token and bits a byte, for every domain.

Nats a token compare runs that share a tokenizer. Bits a byte compare anything, a file compressor
included, since bytes are the same for all.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from fugaku_jax.config import Config
from fugaku_jax.data.batch import Batch, document_segments
from fugaku_jax.data.marked_batch import marked_batch
from fugaku_jax.data.marks import padding
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.held_out import Selection, read_blocks, select_documents
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.layout.rules import Rules
from fugaku_jax.models.gpt import GPT


@dataclass(frozen=True)
class DomainScore:
    """What it takes to write down the held-out documents of a domain."""

    nats: float
    """Summed cross-entropy of all tokens, end-of-document tokens included."""
    tokens: int
    """Tokens predicted, one end-of-document token a document included."""
    bytes: int
    """UTF-8 bytes of the documents; the end of a document is no byte."""
    xz_bytes: int | None
    """Their size under xz; None if only a part of the held-out documents was read."""

    @property
    def nats_per_token(self) -> float:
        """Cross-entropy of a token; NaN without tokens."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model, as a compressor, needs for a byte; NaN without bytes."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def xz_bits_per_byte(self) -> float | None:
        """Bits that xz needs for a byte of the same text."""
        return 8 * self.xz_bytes / self.bytes if self.xz_bytes and self.bytes else None

    def __add__(self, other: "DomainScore") -> "DomainScore":
        """Add up two scores of different text."""
        unknown = self.xz_bytes is None or other.xz_bytes is None
        return DomainScore(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
            None if unknown else (self.xz_bytes or 0) + (other.xz_bytes or 0),
        )


@dataclass(frozen=True)
class Scores:
    """The scores of all domains that have held-out documents."""

    domains: dict[str, DomainScore]
    """Domain (ja, en, math, ...) -> score, in the store's order."""

    @property
    def total(self) -> DomainScore:
        """All domains together, each token counting the same."""
        return functools.reduce(
            DomainScore.__add__, self.domains.values(), DomainScore(0.0, 0, 0, 0)
        )


class Perplexity:
    """Scores models of one shape on the held-out documents of a store, compiled once.

    Every held-out token is predicted exactly once. The documents of a set, each closed by an
    end-of-document token, make one stream that follows an end-of-document token; it is cut in
    windows of `model.sequence_length` tokens without overlap, so a token's context is what stands
    before it in its window. Arithmetic is fp32 whatever the run's precision, without dropout.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        max_tokens_per_domain: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Choose the documents.

        Args:
            store: where the held-out documents are.
            config: the run; `model`, `data.reset_at_document` and the batch size are used.
            max_tokens_per_domain: whole documents are taken, in the store's order, as long as they
                fit into this many tokens (the shortest one if none fits); all if not given.
            batch_size: windows in one call of the model, rounded up to a multiple of the devices
                that carry the batch; a micro-batch of the run if not given.

        Raises:
            InputError: the tokens of the store go beyond the model's vocabulary.
        """
        if store.vocab_size > config.model.vocab_size:
            raise InputError(
                f"model.vocab_size is {config.model.vocab_size}, but the tokenizer of {store.url} "
                f"has {store.vocab_size} pieces; give the store that the model was trained on."
            )
        self.store = store
        self._length = config.model.sequence_length
        self._batch = batch_size or config.training.batch_size // config.training.micro_batches
        self._selections = select_documents(store, max_tokens_per_domain)
        self._reset_at_document = config.data.reset_at_document

    def __call__(self, model: GPT) -> Scores:
        """Score a model that lies whole in every tensor group."""
        structure, weights = nnx.split(model)
        domains: dict[str, DomainScore] = {}
        for selection in self._selections:
            nats, tokens = self._selection_nats(structure, weights, selection, model.rules)
            score = DomainScore(nats, tokens, selection.bytes, selection.xz_bytes)
            domain = selection.domain
            domains[domain] = domains[domain] + score if domain in domains else score
        return Scores(domains)

    def _selection_nats(
        self,
        structure: nnx.GraphDef[GPT],
        weights: PyTree[Array],
        selection: Selection,
        rules: Rules,
    ) -> tuple[float, int]:
        """The summed cross-entropy of what is to be predicted, and how many tokens that is."""
        mesh, devices = mesh_of(weights), rules.parts("batch")
        rows = -(-self._batch // devices) * devices
        sharding = NamedSharding(mesh, rules.spec("batch", None))

        def place(block: np.ndarray) -> Array:
            return jax.make_array_from_callback(block.shape, sharding, block.__getitem__)

        # Added up in float64: the sum goes over up to billions of tokens.
        nats, tokens = 0.0, 0
        for batch in windows(self.store, selection, rows, self._length):
            if self._reset_at_document and batch.segments is None:
                segments = document_segments(batch.tokens, self.store.end_of_document)
                batch = replace(batch, segments=segments)
            tokens += int(batch.weights.sum())
            with active(mesh):
                nats += float(_summed_nats(structure, weights, jax.tree.map(place, batch)))
        return nats, tokens


def windows(store: Store, selection: Selection, rows: int, length: int) -> Iterator[Batch]:
    """Cut the stream of the chosen documents into batches of windows, all of one shape.

    Args:
        rows: windows a batch (B).
        length: tokens a window (T).

    Yields:
        tokens `[B, T + 1]` and weights `[B, T]`: every token of the stream is to be predicted with
        weight 1 once; the rest of the last batch is padding of weight 0. Of dialogues it is every
        token of an answer, and segments `[B, T]` tell them apart.
    """
    before = store.end_of_document
    window = np.arange(rows)[:, None] * length + np.arange(length + 1)
    for block in read_blocks(store, selection, rows * length):
        missing = rows * length - len(block)
        if store.row_tokens:
            end = store.end_of_document
            stream = np.concatenate([padding(end, 1), block, padding(end, missing)])
            yield marked_batch(stream[window])
            continue
        stream = np.concatenate([[before], np.pad(block, (0, missing))], dtype=np.int32)
        weights = np.pad(np.ones(len(block), np.float32), (0, missing))
        before = block[-1]
        yield Batch(stream[window], weights.reshape(rows, length))


@functools.partial(jax.jit, static_argnums=0)
def _summed_nats(
    structure: nnx.GraphDef[GPT], weights: PyTree[Float[Array, "..."]], batch: Batch
) -> Float[Array, ""]:
    model = nnx.merge(structure, weights)
    hidden = model(batch.tokens[:, :-1], segment_ids=batch.segments)
    return model.loss(hidden, batch.tokens[:, 1:], batch.weights)[0]
