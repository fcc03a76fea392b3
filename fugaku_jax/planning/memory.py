"""Bytes that a device needs, modelled without compiling: weights, state, and what steps keep.

What is kept is counted as the pipeline's buffers hold it. XLA's own copies beside it are one
factor, `OVERHEAD`, that compiled steps gave (docs/planning.md says which, and how far off it is).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fugaku_jax.config import Config
from fugaku_jax.planning.step_work import (
    FP32,
    WIDTHS,
    StepWork,
    kept_bytes_of_layer,
    layers_of_stages,
    update_messages,
)

OVERHEAD = 1.03
"""Temporaries that XLA allocates over those that are counted here."""


@dataclass(frozen=True)
class DeviceBytes:
    """What a device needs; the names are those of the plan's JSON."""

    parameters: int
    """Of master weights."""
    optimizer: int
    """Of moments."""
    temporaries: int
    """Of gradients, activations and XLA's copies."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.optimizer + self.temporaries


def model_bytes(config: Config, work: StepWork) -> DeviceBytes:
    """Model what the fullest device needs.

    Args:
        config: the run.
        work: its step, counted for its degrees of parallelism.
    """
    mesh, training, degrees = config.mesh, config.training, work.degrees
    width, stages = WIDTHS[training.precision], degrees["pipeline"]
    layers = layers_of_stages(config, stages)
    most = max(map(max, layers)) * mesh.chunks
    _, held, state = update_messages(config, work, most)
    rows = training.batch_size // training.micro_batches // degrees["data"]
    shared = mesh.sequence_parallel
    kept = kept_bytes_of_layer(
        config.model, rows, degrees["tensor"], degrees["context"], shared, width
    )
    stream = rows * config.model.sequence_length // degrees["context"] * config.model.d_model
    stream = stream * width // (degrees["tensor"] if shared else 1)
    of_layer, at_work = kept, kept
    if training.remat == "block":
        of_layer = stream
    whole = most * work.layer_parameters + work.shared_parameters
    gradients = FP32 * (held if mesh.weights == "fsdp" else whole)
    if width < FP32:  # XLA converts the weights ahead of the loops over them
        gradients += width * (held if mesh.weights == "fsdp" else whole)
    if stages == 1:
        gradients += FP32 * (held if mesh.weights == "fsdp" else whole)  # of this micro-batch alone
        buffers = of_layer * most
    else:
        in_flight = _in_flight(config, stages)
        kept_layers = max(map(max, layers)) * (
            max(in_flight[mesh.recompute_stages :], default=0) + (mesh.recompute_stages > 0)
        )
        inputs = max(in_flight[: mesh.recompute_stages], default=0) + 4
        buffers = of_layer * kept_layers + stream * (inputs + max(in_flight))
        if mesh.schedule == "zero_bubble":
            put_off = min(training.micro_batches, stages - 1) * max(map(max, layers))
            buffers += put_off * _deferred_bytes(config, rows, degrees, width)
    if mesh.weights == "fsdp":
        buffers += 2 * FP32 * work.layer_parameters + FP32 * work.shared_parameters
    logits = FP32 * rows * config.model.sequence_length // degrees["context"]
    logits = min(logits * config.model.padded_vocab_size // degrees["tensor"], 1 << 27)
    counted = gradients + buffers + 3 * at_work // 2 + 2 * logits + FP32 * work.shared_parameters
    return DeviceBytes(FP32 * held, 2 * FP32 * state, int(OVERHEAD * counted))


def _deferred_bytes(config: Config, rows: int, degrees: Mapping[str, int], width: int) -> int:
    """What a layer's gradients of inputs leave for those of its weights: those of its products."""
    model, tensor = config.model, degrees["tensor"]
    own = (model.n_heads + 2 * model.kv_heads) * model.head_dim // tensor
    own += model.feed_forward // tensor * (1 if model.family == "gpt2" else 2)
    streams = 2 * model.d_model
    return rows * model.sequence_length // degrees["context"] * width * (own + streams)


def _in_flight(config: Config, stages: int) -> list[int]:
    """Chunks of micro-batches that each stage has in flight (docs/mesh.md, "Schedules")."""
    kind, micro_batches, chunks = (
        config.mesh.schedule,
        config.training.micro_batches,
        config.mesh.chunks,
    )
    if kind == "gpipe":
        return [micro_batches] * stages
    if kind == "zero_bubble":
        return [min(micro_batches, stages)] * stages
    if kind == "interleaved":
        lead = (chunks - 1) * stages - 1
        return [min(lead + 2 * (stages - s), micro_batches * chunks) for s in range(stages)]
    return [min(micro_batches, stages - s) for s in range(stages)]


def fits(bytes_: DeviceBytes, limit: float) -> bool:
    """Tell whether a device has room for it."""
    return bytes_.total <= limit
