"""A run as data: frozen dataclasses whose values are checked when they are made.

A recipe in `configs/` returns a `Config`; the command line overrides single fields of it.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from fugaku_jax.errors import InputError
from fugaku_jax.json_types import typed

WSD_DECAY_FRACTION = 0.1
"""Share of a run over which `wsd` lets the learning rate fall, if not told otherwise."""


def _require(condition: bool, path: str, value: object, allowed: str) -> None:
    if not condition:
        raise InputError(f"{path} is {value!r}, but it must be {allowed}.")


def _require_positive(section: object, prefix: str, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _require(value > 0, f"{prefix}.{name}", value, "greater than 0")


def _require_fraction(section: object, prefix: str, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _require(0 <= value < 1, f"{prefix}.{name}", value, "at least 0 and below 1")


def _require_listed(section: object, prefix: str, *names: str) -> None:
    """Refuse what a recipe gives a field that its `Literal` does not list."""
    hints = get_type_hints(type(section))
    for name in names:
        value, listed = getattr(section, name), get_args(hints[name])
        _require(value in listed, f"{prefix}.{name}", value, " or ".join(listed))


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder of one of two families."""

    vocab_size: int
    """Tokens that may have probability: at least the tokenizer's pieces."""
    n_layers: int
    """Transformer blocks (L)."""
    d_model: int
    """Width of the residual stream (D)."""
    n_heads: int
    """Attention heads (H); must divide `d_model`."""
    sequence_length: int
    """Tokens a sample holds, and learned positions the model has (T)."""
    family: Literal["gpt2", "llama"] = "gpt2"
    """`gpt2`: learned positions, layer normalisation, GELU, biases. `llama`: rotary positions, RMS
    normalisation, SwiGLU, no biases."""
    d_ff: int | None = None
    """Width of the feed-forward layer (F). If not given, 4 x `d_model` with GPT-2, and with LLaMA
    two thirds of that, rounded up to a multiple of 64."""
    n_kv_heads: int | None = None
    """Heads of keys and values (G), each shared by neighbouring heads of queries; must divide
    `n_heads`, which it is if not given. GPT-2 has no other."""
    tied: bool = True
    """Whether the embedding is the output matrix too."""
    rope_theta: float = 10_000.0
    """Base of the rotary positions' wavelengths."""
    dropout: float = 0.0
    """Probability of dropping an element of a hidden state."""
    attention_dropout: float = 0.0
    """Probability of dropping an attention weight."""
    init_std: float = 0.02
    """Standard deviation of initial weights; output projections get it divided by sqrt(2 L)."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in layer normalisation."""
    vocab_multiple: int = 128
    """The embedding gets rows up to a multiple of this; the padding never gets probability."""

    def __post_init__(self) -> None:
        _require_positive(
            self, "model", "vocab_size", "n_layers", "d_model", "n_heads", "sequence_length"
        )
        _require_positive(self, "model", "init_std", "layer_norm_epsilon", "vocab_multiple")
        _require_positive(self, "model", "rope_theta")
        _require_fraction(self, "model", "dropout", "attention_dropout")
        _require(self.d_ff is None or self.d_ff > 0, "model.d_ff", self.d_ff, "greater than 0")
        if self.d_model % self.n_heads:
            raise InputError(
                f"model.n_heads is {self.n_heads}, but it must divide model.d_model, "
                f"which is {self.d_model}."
            )
        self._check_family()

    def _check_family(self) -> None:
        _require_listed(self, "model", "family")
        groups, heads = self.kv_heads, self.n_heads
        if self.family == "gpt2":
            _require(groups == heads, "model.n_kv_heads", groups, f"n_heads, {heads}, with gpt2")
            return
        allowed = f"a divisor of model.n_heads, {heads}"
        _require(groups > 0 and heads % groups == 0, "model.n_kv_heads", groups, allowed)
        even = f"such that a head has an even width, not {self.head_dim}"
        _require(self.head_dim % 2 == 0, "model.n_heads", heads, even)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values (G)."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one attention head (K)."""
        return self.d_model // self.n_heads

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layer (F)."""
        if self.d_ff:
            return self.d_ff
        wide = 4 * self.d_model
        return wide if self.family == "gpt2" else -(-2 * wide // (3 * 64)) * 64

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding (V): `vocab_size` rounded up to `vocab_multiple`."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from."""

    store: str = "builtin"
    """Path or TensorStore URL of a token store, or `builtin` for the generated corpus."""
    seed: int = 1234
    """Seed of the order of samples."""
    reset_at_document: bool = False
    """Whether attention and positions start anew after an end-of-document token."""
    prefetch: int = 2
    """Batches read ahead of the step."""

    def __post_init__(self) -> None:
        _require(bool(self.store), "data.store", self.store, "a path, a URL or `builtin`")
        _require_positive(self, "data", "prefetch")
        _require(self.seed >= 0, "data.seed", self.seed, "at least 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule, which is counted in tokens."""

    learning_rate: float
    """Peak learning rate."""
    min_learning_rate: float = 0.0
    """Learning rate at the end of the decay."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """`cosine` over tokens, or `wsd`: warm-up, stable, linear decay."""
    warmup_tokens: int = 0
    """Tokens of the linear warm-up."""
    decay_tokens: int | None = None
    """Cosine: tokens at which the decay ends, those of the run if not given. WSD: tokens of the
    final decay, a tenth of the run if not given, or what the warm-up leaves of that."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; biases and norms have none."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 for no clipping."""

    def __post_init__(self) -> None:
        _require_positive(self, "optimizer", "learning_rate", "epsilon")
        _require_fraction(self, "optimizer", "beta1", "beta2")
        for name in ("min_learning_rate", "warmup_tokens", "weight_decay", "clip"):
            value = getattr(self, name)
            _require(value >= 0, f"optimizer.{name}", value, "at least 0")
        decay, warmup = self.decay_tokens, self.warmup_tokens
        _require(decay is None or decay > 0, "optimizer.decay_tokens", decay, "greater than 0")
        _require(
            decay is None or self.schedule == "wsd" or decay > warmup,
            "optimizer.decay_tokens",
            decay,
            f"greater than optimizer.warmup_tokens, {warmup}, after which a cosine begins to fall",
        )
        _require(
            self.min_learning_rate <= self.learning_rate,
            "optimizer.min_learning_rate",
            self.min_learning_rate,
            f"at most optimizer.learning_rate, {self.learning_rate!r}",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The loop: how much, how precisely, and what is shown on the way."""

    steps: int
    """Optimizer steps of the run."""
    batch_size: int
    """Samples a step (B), over all micro-batches and devices."""
    micro_batches: int = 1
    """Parts a batch is split into, whose gradients are accumulated; must divide `batch_size`."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; master weights are fp32 always. fp16 scales
    the loss dynamically."""
    remat: Literal["none", "products", "block"] = "none"
    """What a block recomputes in the backward pass rather than keeps: nothing but attention's
    weights and elementwise functions; all but its products with weights; or all."""
    z_loss: float = 0.0
    """Weight of the squared log-partition added to the loss; 0 for none."""
    seed: int = 1234
    """Seed of initial weights and dropout."""
    validate_every: int = 100
    """Steps between validations; 0 for none but the last."""
    validation_tokens: int = 65_536
    """Most held-out tokens of a domain that a validation reads."""
    sample_every: int = 0
    """Steps between samples of generated text; 0 for none but the last."""
    sample_tokens: int = 64
    """Tokens a sample has; 0 for no samples at all."""
    prompts: tuple[str, ...] = ("むかしむかし、", "In the beginning")
    """Prompts of the samples."""
    stop_after: int | None = None
    """Stop after this many steps of this session, saved, with exit code 75, as a time limit
    would."""

    def __post_init__(self) -> None:
        _require_positive(self, "training", "steps", "batch_size", "micro_batches")
        _require_listed(self, "training", "precision", "remat")
        _require(self.steps < 2**31, "training.steps", self.steps, "less than 2^31")
        for name in ("z_loss", "seed", "validate_every", "sample_every", "sample_tokens"):
            value = getattr(self, name)
            _require(value >= 0, f"training.{name}", value, "at least 0")
        _require_positive(self, "training", "validation_tokens")
        stop = self.stop_after
        _require(stop is None or stop > 0, "training.stop_after", stop, "greater than 0")
        _require(
            self.batch_size % self.micro_batches == 0,
            "training.micro_batches",
            self.micro_batches,
            f"a divisor of training.batch_size, {self.batch_size}",
        )


@dataclass(frozen=True)
class MeshConfig:
    """How many devices share the work, and how; -1 takes what the others leave."""

    data: int = -1
    """Replicas, each with its part of every batch."""
    tensor: int = 1
    """Devices that share the heads, the feed-forward layer and the vocabulary."""
    context: int = 1
    """Devices that share a sequence, passing keys and values round a ring."""
    pipeline: int = 1
    """Stages that share the layers."""
    shape: str = ""
    """Nodes of a torus: a job's `48x6x48`, folded to six dimensions, or six sizes, those of
    x y z a b c. Empty where the machine is no torus."""
    local: int = 1
    """Devices of one node, core groups for instance. They are among the tensor devices, so that
    what these say to each other first stays inside the node."""
    sequence_parallel: bool = False
    """Whether the tensor devices share the positions between their products (norms, dropout)."""
    weights: Literal["replicated", "zero1", "fsdp"] = "replicated"
    """Among replicas: everything `replicated`; the optimizer's state split (`zero1`); or weights,
    gradients and state split (`fsdp`), each layer gathered when it is its turn."""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero_bubble"] = "1f1b"
    """Order of work in the pipeline."""
    chunks: int = 1
    """Runs of layers a stage holds; more than one with `interleaved` only."""
    layers: tuple[int, ...] = ()
    """Layers of each stage (of each run, with chunks, in the order of the layers); as even as can
    be if not given."""
    recompute_stages: int = 0
    """First stages that keep only their inputs and recompute in the backward pass."""
    collective: Literal["flat", "bucket", "turned"] = "flat"
    """How gradients are summed: over all axes at once, axis by axis, or axis by axis with each
    device of a node (`mesh.local`) in another order."""

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "context", "pipeline"):
            value = getattr(self, name)
            _require(value == -1 or value > 0, f"mesh.{name}", value, "greater than 0, or -1")
        _require_positive(self, "mesh", "chunks", "local")
        _require_listed(self, "mesh", "weights", "schedule", "collective")
        _require(
            self.tensor == -1 or self.tensor % self.local == 0,
            "mesh.local",
            self.local,
            f"a divisor of mesh.tensor, {self.tensor}",
        )
        _require(
            (self.chunks > 1) == (self.schedule == "interleaved"),
            "mesh.chunks",
            self.chunks,
            "2 or more with the interleaved schedule, and 1 with any other",
        )
        _require(
            self.recompute_stages >= 0, "mesh.recompute_stages", self.recompute_stages, "at least 0"
        )
        _require(all(n > 0 for n in self.layers), "mesh.layers", self.layers, "greater than 0 each")


@dataclass(frozen=True)
class CheckpointConfig:
    """How often the run is saved and what is kept."""

    every: int = 250
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Latest checkpoints that are kept."""

    def __post_init__(self) -> None:
        _require_positive(self, "checkpoint", "every", "keep")


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    model: ModelConfig
    """The shape of the model."""
    optimizer: OptimizerConfig
    """AdamW and its schedule."""
    training: TrainingConfig
    """Steps, batch and precision."""
    data: DataConfig = field(default_factory=DataConfig)
    """The token store and its order."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Data, tensor, context and pipeline parallelism."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving and retention."""

    def __post_init__(self) -> None:
        optimizer, total = self.optimizer, self.total_tokens
        decay, warmup = optimizer.decay_tokens, optimizer.warmup_tokens
        _require(
            decay is None or optimizer.schedule != "wsd" or warmup + decay <= total,
            "optimizer.decay_tokens",
            decay,
            f"at most what optimizer.warmup_tokens, {warmup}, leave of the run's {total} tokens",
        )

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step learns from."""
        return self.training.batch_size * self.model.sequence_length

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole run."""
        return self.training.steps * self.tokens_per_step

    @property
    def decay_span(self) -> tuple[float, float]:
        """Tokens at which the learning rate begins to fall, and at which it has fallen.

        Both are the same where the run ends before the warm-up does.
        """
        optimizer, total = self.optimizer, self.total_tokens
        if optimizer.schedule == "cosine":
            start, end = optimizer.warmup_tokens, optimizer.decay_tokens or total
        else:
            final = optimizer.decay_tokens or total * WSD_DECAY_FRACTION
            start, end = max(total - final, optimizer.warmup_tokens), total
        return min(start, end), end

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as nested dictionaries that JSON can hold."""
        as_dict = dataclasses.asdict(self)
        as_dict["training"]["prompts"] = list(self.training.prompts)
        as_dict["mesh"]["layers"] = list(self.mesh.layers)
        return as_dict


def flat_fields(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to `{"model.n_layers": 4, ...}`."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= flat_fields(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def config_from_dict(nested: dict[str, Any]) -> Config:
    """Rebuild a `Config` from what `Config.to_dict` gave, also in files of before.

    Raises:
        InputError: a field is unknown, missing, of another type or has a value that is not allowed.
    """
    mesh = nested.get("mesh")
    if isinstance(mesh, dict) and mesh.get("weights") == "sharded":  # what `fsdp` was called
        nested = nested | {"mesh": mesh | {"weights": "fsdp"}}
    return typed(Config, nested)
