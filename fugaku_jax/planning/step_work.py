"""What one device computes, moves and sends in a step, counted from the configuration alone.

Nothing is traced, so that a search can count thousands of layouts. All is of one micro-batch on one
device: D the width, T the positions, N = B·T / (data · context) the tokens of a micro-batch here.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from fugaku_jax.config import Config, ModelConfig

FP32 = 4
"""Bytes of a master weight, of a gradient and of each of AdamW's moments."""
Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]
"""Of the arithmetic (`training.precision`)."""
WIDTHS: Mapping[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of an activation."""
Phase: TypeAlias = Literal["forward", "backward", "update"]
"""When something is done: on the way there, on the way back, or once a step after both."""


@dataclass(frozen=True)
class Matmul:
    """A product of matrices, `[rows, depth]` by `[depth, columns]`."""

    rows: int
    depth: int
    columns: int

    @property
    def operations(self) -> int:
        """Its floating-point operations."""
        return 2 * self.rows * self.depth * self.columns


@dataclass(frozen=True)
class ScoreWork:
    """Attention's weights on a device: each is a product of `head_dim` terms, and has a softmax."""

    count: int
    """Those that a position sees (half of the square), over heads and rows."""
    square: int
    """All of the square."""
    head_dim: int


@dataclass(frozen=True)
class Transfer:
    """A collective, or a message between two, as one device takes part in it."""

    kind: Literal["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send"]
    over: tuple[str, ...]
    """Kinds of parallelism along whose axes it goes: tensor, context, data, pipeline."""
    bytes: int
    """Of the whole array: what a device has before an all-reduce or reduce-scatter, and after an
    all-gather."""
    count: int = 1


@dataclass(frozen=True)
class Work:
    """What is done in one go: products, attention, bytes through memory, and messages."""

    products: tuple[Matmul, ...] = ()
    scores: ScoreWork | None = None
    score_products: int = 0
    """Products of attention that each score is part of: 2 there, 5 on the way back (two of the
    forward pass are made again)."""
    stream_bytes: int = 0
    """Through memory, of what is neither a product nor attention."""
    messages: tuple[Transfer, ...] = ()

    def and_(self, other: "Work") -> "Work":
        """Return both together; attention's scores are those of either."""
        return Work(
            self.products + other.products,
            self.scores or other.scores,
            self.score_products + other.score_products,
            self.stream_bytes + other.stream_bytes,
            self.messages + other.messages,
        )

    @property
    def operations(self) -> int:
        """Floating-point operations, of attention those of the seen half."""
        scores = self.scores
        attention = 2 * scores.count * scores.head_dim * self.score_products if scores else 0
        return attention + sum(each.operations for each in self.products)


@dataclass(frozen=True)
class StepWork:
    """What a device does in a step, by where it is done."""

    layer: Mapping[Phase, Work]
    """Of a layer and micro-batch."""
    backward_weights: float
    """The share of a layer's backward products that are gradients of weights."""
    embedding: Work
    """Of a micro-batch on the first stage, there."""
    head: Work
    """Of a micro-batch on the last stage, there; it has the way back in it."""
    between_stages: Transfer | None
    """What a stage sends to the next, and gets back as a gradient."""
    layer_parameters: int
    """Weights of a layer on a device, before replicas share them."""
    shared_parameters: int
    """Those outside of the layers."""
    degrees: Mapping[str, int] = field(hash=False)
    """How many ways each kind of parallelism divides the devices."""


def step_work(config: Config, degrees: Mapping[str, int]) -> StepWork:
    """Count a step.

    Args:
        config: the run.
        degrees: kind of parallelism -> degree, none of them -1.
    """
    training, mesh, model = config.training, config.mesh, config.model
    rows = training.batch_size // training.micro_batches // degrees["data"]
    tensor, context = degrees["tensor"], degrees["context"]
    counted = _of_micro_batch(
        model, rows, tensor, context, mesh.sequence_parallel, WIDTHS[training.precision]
    )
    if degrees["pipeline"] == 1:
        counted = replace(counted, between_stages=None)
    if mesh.weights == "fsdp":
        counted = replace(counted, layer=_with_gathers(counted))
    return replace(counted, degrees=dict(degrees))


def update_messages(
    config: Config, work: StepWork, layers: int
) -> tuple[tuple[Transfer, ...], int, int]:
    """Return what replicas send after the last micro-batch, and the weights that a device updates.

    Args:
        config: the run.
        work: of its step.
        layers: of the stage that has most.

    Returns:
        messages; the parameters that a device holds; and those whose state it holds.
    """
    own, shared = layers * work.layer_parameters, work.shared_parameters
    held = own + shared
    replicas = work.degrees["data"] * work.degrees["context"]
    divided = -(-held // replicas)
    over = ("data", "context")
    messages: tuple[Transfer, ...] = ()
    if config.mesh.weights == "replicated":
        messages = (Transfer("all-reduce", over, FP32 * held),)
        state = held
    elif config.mesh.weights == "zero1":
        messages = (
            Transfer("reduce-scatter", over, FP32 * held),
            Transfer("all-gather", over, FP32 * held),
        )
        state = divided
    else:  # layers were scattered one by one; the others are gathered before and scattered after
        table = FP32 * shared
        messages = (Transfer("all-gather", over, table), Transfer("reduce-scatter", over, table))
        held = state = divided
    if work.degrees["pipeline"] > 1:  # the first stage's table and the last one's are the same
        messages += (Transfer("send", ("pipeline",), FP32 * work.shared_parameters),)
    if replicas == 1:
        messages = tuple(each for each in messages if each.over != over)
    return messages, held, state


@functools.lru_cache(maxsize=4096)
def _of_micro_batch(
    model: ModelConfig, rows: int, tensor: int, context: int, shares_positions: bool, width: int
) -> StepWork:
    length = model.sequence_length // context
    if shares_positions:
        length = -(-length // tensor) * tensor
    tokens, d, f = rows * length, model.d_model, model.feed_forward
    heads, groups, k = model.n_heads // tensor, max(model.kv_heads // tensor, 1), model.head_dim
    is_gpt2 = model.family == "gpt2"
    qkv, hidden = (heads + 2 * groups) * k, f // tensor
    maps = ((d, qkv), (heads * k, d), (d, hidden if is_gpt2 else 2 * hidden), (hidden, d))
    square = rows * heads * length * length * context
    scores = ScoreWork(square // 2, square, k)
    stream = tokens * d * width // (tensor if shares_positions else 1)  # bytes of the stream here
    # Forward: two norms (read, write) and two sums with what was dropped (two reads, a write);
    # back: as many once more and the norms' gradients; both: what is kept is written, then read.
    kept = kept_bytes_of_layer(model, rows, tensor, context, shares_positions, width)
    weights = 4 * d if is_gpt2 else 2 * d
    weights += sum(inputs * outputs for inputs, outputs in maps)
    weights += qkv + d + hidden + d if is_gpt2 else 0
    forward = Work(
        tuple(Matmul(tokens, inputs, outputs) for inputs, outputs in maps),
        *(scores, 2, 10 * stream + kept),
        _tensor_messages(tokens * d * width, tensor, shares_positions, back=False)
        + _context_messages(tokens * k * width, heads, context, back=False),
    )
    backward = Work(
        tuple(
            each
            for inputs, outputs in maps
            for each in (Matmul(tokens, outputs, inputs), Matmul(inputs, tokens, outputs))
        ),
        *(scores, 5, 14 * stream + kept + 2 * FP32 * weights),  # added to the total
        _tensor_messages(tokens * d * width, tensor, shares_positions, back=True)
        + _context_messages(tokens * k * width, heads, context, back=True),
    )
    rows_of_table = -(-model.padded_vocab_size // tensor)
    shared = (
        rows_of_table * (1 if model.tied else 2) + (model.sequence_length if is_gpt2 else 0)
    ) * d
    shared += (2 if is_gpt2 else 1) * d
    logits = (
        Matmul(tokens, d, rows_of_table),
        Matmul(tokens, rows_of_table, d),
        Matmul(rows_of_table, tokens, d),
    )
    hidden_bytes = tokens * d * width
    sums = (Transfer("all-reduce", ("tensor",), tokens * d * FP32),) if tensor > 1 else ()
    gathered = (Transfer("all-gather", ("tensor",), hidden_bytes),)
    head = Work(
        logits,
        stream_bytes=6 * stream + 3 * tokens * rows_of_table * FP32 + rows_of_table * d * FP32,
        messages=sums + (gathered if shares_positions and tensor > 1 else ()),
    )
    embedded = Transfer(
        "reduce-scatter" if shares_positions else "all-reduce", ("tensor",), hidden_bytes
    )
    return StepWork(
        layer={"forward": forward, "backward": backward},
        backward_weights=0.5,
        embedding=Work(stream_bytes=4 * stream, messages=(embedded,) if tensor > 1 else ()),
        head=head,
        between_stages=Transfer("send", ("pipeline",), stream),
        layer_parameters=weights,
        shared_parameters=shared,
        degrees={},
    )


def kept_bytes_of_layer(
    model: ModelConfig, rows: int, tensor: int, context: int, shares_positions: bool, width: int
) -> int:
    """Bytes that a layer keeps of a micro-batch for its way back, where nothing is recomputed.

    The inputs of both norms and what these give, masks of dropout, queries, keys and values, what
    attention gives (for itself and for the product that follows it) and its logarithms, and what
    enters the activation.
    """
    length = model.sequence_length // context
    d, f, heads = model.d_model, model.feed_forward, model.n_heads // tensor
    groups, k = max(model.kv_heads // tensor, 1), model.head_dim
    hidden = f // tensor * (1 if model.family == "gpt2" else 2)
    streams = (6 if model.dropout else 4) * d // (tensor if shares_positions else 1)
    own = (3 * heads + 2 * groups) * k + hidden
    return rows * length * (width * (streams + own) + FP32 * heads)


def _tensor_messages(
    stream: int, tensor: int, shares_positions: bool, *, back: bool
) -> tuple[Transfer, ...]:
    """Of a layer: the two sums there and the two on the way back, or gathers and scatters."""
    if tensor == 1:
        return ()
    over = ("tensor",)
    if not shares_positions:
        return (Transfer("all-reduce", over, stream, 2),)
    return (
        Transfer("all-gather", over, stream, 4 if back else 2),  # back, inputs are gathered again
        Transfer("reduce-scatter", over, stream, 2),
    )


def _context_messages(head: int, heads: int, context: int, *, back: bool) -> tuple[Transfer, ...]:
    """Of ring attention: queries and results change places, and keys and values pass by."""
    if context == 1:
        return ()
    over, one = ("context",), head * heads
    messages = (
        Transfer("all-to-all", over, one, 4 if back else 2),
        Transfer("all-gather", over, 2 * one * context),
    )
    if back:  # the gradients of keys and values return, summed in fp32
        messages += (Transfer("reduce-scatter", over, 4 * one * context),)
    return messages


def _with_gathers(work: StepWork) -> Mapping[Phase, Work]:
    """FSDP: a layer is gathered on the way there and back, and its gradient scattered."""
    over, size = ("data", "context"), FP32 * work.layer_parameters
    gather, scatter = Transfer("all-gather", over, size), Transfer("reduce-scatter", over, size)
    return {
        "forward": work.layer["forward"].and_(Work(messages=(gather,))),
        "backward": work.layer["backward"].and_(Work(messages=(gather, scatter))),
    }


def layers_of_stages(config: Config, pipeline: int) -> tuple[tuple[int, ...], ...]:
    """Return how many layers each chunk of each stage holds, `[stage][chunk]`, as `make_stages`."""
    mesh, layers = config.mesh, config.model.n_layers
    runs = pipeline * mesh.chunks
    counts = mesh.layers or tuple(layers // runs + (r < layers % runs) for r in range(runs))
    return tuple(tuple(counts[s::pipeline]) for s in range(pipeline))
