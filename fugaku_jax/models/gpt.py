"""A decoder of one of two families: GPT-2 as Fugaku-LLM used it, and LLaMA.

GPT-2 has learned positions, layer normalisation before each half of a block, tanh-GELU and biases
everywhere; LLaMA rotary positions, RMS normalisation, SwiGLU, keys and values that heads may share,
and no biases. The output matrix may be the embedding, and the vocabulary is padded to a convenient
size.
Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; Touvron et al.,
"LLaMA", 2023; Ainslie et al., "GQA", 2023; initial weights as in Shoeybi et al., "Megatron-LM",
2019, section 3.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, PyTree

from fugaku_jax.config import ModelConfig
from fugaku_jax.kernels.activation import gelu, swiglu
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.kernels.loss import cross_entropy
from fugaku_jax.layout.rules import Rules
from fugaku_jax.models.layers import PRODUCT, Embedding, LayerNorm, Linear, RMSNorm
from fugaku_jax.models.lora import Adapted
from fugaku_jax.models.rotary import rotate
from fugaku_jax.models.segments import positions_in
from fugaku_jax.parallel.attention import attend
from fugaku_jax.pipeline.stack import WHOLE, Fsdp, Layer, scan_layers

Operands = tuple[Float[Array, "B T ..."], ...]
"""What attention looks at: one array of queries, keys and values, `[B, T, 3, H, K]`, or three."""
Kept = TypeVar("Kept")
Attention = Callable[[Operands], tuple[Float[Array, "B T H K"], Kept]]
"""Gives what each position finds, and what else is to be kept, as the cache of generation is."""


class Inputs(NamedTuple):
    """What a model reads, beside its weights."""

    tokens: Int[Array, "B T"]
    positions: Int[Array, "B T"] | None = None
    """Index of each token's position; 0, 1, 2, ... if not given."""
    segment_ids: Int[Array, "B T"] | None = None
    """A token attends only to tokens of its own segment."""
    dropout: Dropout | None = None
    """Draws all dropout masks; None keeps everything."""


class Block(nnx.Module):
    """Attention and feed-forward, each behind a normalisation and added to the stream."""

    def __init__(self, config: ModelConfig, key: Key[Array, ""], rules: Rules) -> None:
        keys = jax.random.split(key, 4)
        is_llama = config.family == "llama"
        sizes = {"d": config.d_model, "f": config.feed_forward, "k": config.head_dim}
        sizes |= {"h": config.n_heads, "g": config.kv_heads, "c": 2 if is_llama else 3}

        def linear(equation: str, key: Key[Array, ""], divisor: float = 1) -> Linear:
            std = config.init_std / divisor
            return Linear(equation, sizes, std, key, rules, bias=not is_llama)

        onto_stream = math.sqrt(2 * config.n_layers)
        self.config, self.rules = config, rules
        self.attention_norm = make_norm(config)
        if is_llama:
            self.q = linear("btd,dhk->bthk", keys[0])
            self.kv = linear("btd,dcgk->btcgk", jax.random.fold_in(key, 4))
        else:
            self.qkv = linear("btd,dchk->btchk", keys[0])
        self.attention_output = linear("bthk,hkd->btd", keys[1], onto_stream)
        self.feed_forward_norm = make_norm(config)
        self.up = linear("btd,dcf->btcf" if is_llama else "btd,df->btf", keys[2])
        self.down = linear("btf,fd->btd", keys[3], onto_stream)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"] | None,
        attention: Attention[Kept],
        dropout: Dropout | None = None,
    ) -> tuple[Float[Array, "B T D"], Kept]:
        """Return the stream after this block, and what attention keeps.

        Args:
            positions: index of each token's position; 0, 1, 2, ... if not given.
            attention: looks at queries, keys and values.
            dropout: draws the masks of this block; None keeps everything.
        """
        config = self.config
        rate, activation = config.dropout, gelu if config.family == "gpt2" else swiglu
        mixed, kept = attention(self._operands(x, positions))
        x = x + _dropped(self.attention_output(mixed), rate, dropout and dropout.fold(1))
        y = self.down(self.up(self.feed_forward_norm(x)), activation)
        return x + _dropped(y, rate, dropout and dropout.fold(2)), kept

    def attention(
        self, segment_ids: Int[Array, "B T"] | None, dropout: Dropout | None
    ) -> "Attention[None]":
        """Return the attention of training, to all positions before; it keeps nothing."""
        config, mask = self.config, dropout and dropout.fold(0)
        rate, length = config.attention_dropout, config.sequence_length

        def attention(operands: Operands) -> tuple[Float[Array, "B T H K"], None]:
            return attend(operands, segment_ids, mask, rate, self.rules.context, length), None

        return attention

    def _operands(self, x: Float[Array, "B T D"], positions: Int[Array, "B T"] | None) -> Operands:
        normal = self.attention_norm(x)
        if self.config.family == "gpt2":
            return (self.qkv(normal),)
        kv, theta = self.kv(normal), self.config.rope_theta
        q, k = (rotate(a, positions, theta) for a in (self.q(normal), kv[:, :, 0]))
        return q, k, kv[:, :, 1]


def make_norm(config: ModelConfig) -> LayerNorm | RMSNorm:
    """Return the family's normalisation."""
    kind = RMSNorm if config.family == "llama" else LayerNorm
    return kind(config.d_model, config.layer_norm_epsilon)


class GPT(nnx.Module):
    """A decoder-only transformer; its blocks are stacked along a leading axis of length L."""

    def __init__(self, config: ModelConfig, key: Key[Array, ""], rules: Rules = Rules()) -> None:  # noqa: B008
        """Make random weights.

        Args:
            config: the shape.
            key: key of the weights, which are the same on every mesh.
            rules: what the axes of the mesh carry; nothing, as on one device, if not given.
        """
        token_key, position_key, block_key = jax.random.split(key, 3)
        width, std = config.d_model, config.init_std
        self.config, self.rules = config, rules
        table = functools.partial(Embedding, width=width, std=std, rules=rules)
        self.tokens = table(config.padded_vocab_size, row_axis="vocab", key=token_key)
        if config.family == "gpt2":
            self.positions = table(config.sequence_length, row_axis=None, key=position_key)
        if not config.tied:
            output_key = jax.random.fold_in(key, 3)
            self.output = table(config.padded_vocab_size, row_axis="vocab", key=output_key)
        make_block = functools.partial(Block, config, rules=rules)
        self.blocks = jax.vmap(make_block)(jax.random.split(block_key, config.n_layers))
        self.norm = make_norm(config)

    @property
    def output_table(self) -> Float[Array, "V D"]:
        """The output matrix, a token a row."""
        return (self.tokens if self.config.tied else self.output).table[...]

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        dropout: Dropout | None = None,
        dtype: DTypeLike = jnp.float32,
        remat: str = "none",
        fsdp: Fsdp = WHOLE,
        adapters: PyTree[Float[Array, "L ..."]] | None = None,
    ) -> Float[Array, "B T D"]:
        """Return the normalised hidden states, from which `logits` or the loss follow.

        Args:
            positions: index of each token's position; 0, 1, 2, ... of each segment if not given.
            segment_ids: a token attends only to tokens of its own segment.
            dropout: draws all dropout masks; None keeps everything.
            dtype: type of the arithmetic.
            remat: what a block recomputes in the backward pass: `none` of it (but attention's
                weights and what lies inside norm and GELU), all but its `products` with weights,
                or the whole `block`.
            fsdp: brings a block's weights together where they lie scattered over devices, or with
                their adapters.
            adapters: of the blocks, or whatever else is stacked and `fsdp` is given with them.
        """
        if positions is None and segment_ids is not None:
            positions = positions_in(segment_ids)
        inputs = Inputs(tokens, positions, segment_ids, dropout)
        structure, weights = nnx.split(self.blocks)
        layer, numbers = block_layer(structure, remat), jnp.arange(self.config.n_layers)
        weights = nnx.to_pure_dict(weights)
        weights = weights if adapters is None else Adapted(adapters, weights)
        x = scan_layers(layer, self.embed(inputs, dtype), weights, numbers, inputs, fsdp)
        return self.norm(x)

    def embed(self, inputs: Inputs, dtype: DTypeLike) -> Float[Array, "B T D"]:
        """Return the stream before the first block, in the type of the arithmetic."""
        tokens, positions, _, dropout = inputs
        x = self.tokens(tokens)
        if self.config.family == "gpt2":
            if positions is None:
                positions = jax.lax.broadcasted_iota(
                    jnp.int32, tokens.shape, 1, out_sharding=self.rules.spec("batch", "sequence")
                )
            x += self.positions(positions)
        masks = dropout and dropout.fold(self.config.n_layers)
        return _dropped(x, self.config.dropout, masks).astype(dtype)

    def loss(
        self,
        hidden: Float[Array, "B T D"],
        targets: Int[Array, "B T"],
        weights: Float[Array, "B T"] | None = None,
        z_loss: float = 0.0,
    ) -> tuple[Float[Array, ""], Float[Array, "B T"]]:
        """Return the summed loss of the targets, in nats, and the loss of each.

        Args:
            hidden: normalised; positions beyond the targets' are left out.
            weights: what each position counts in the sum; 1 if not given.
            z_loss: as of `cross_entropy`.
        """
        if weights is None:
            sharding = jax.typeof(targets).sharding
            weights = jnp.ones(targets.shape, jnp.float32, out_sharding=sharding)
        hidden = self._whole(hidden)[:, : targets.shape[1]]
        vocab_size = self.config.vocab_size
        return cross_entropy(hidden, self.output_table, targets, weights, vocab_size, z_loss)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return fp32 logits over the padded vocabulary; the padding has -inf."""
        logits = self.padded_logits(hidden)
        token = jax.lax.broadcasted_iota(
            jnp.int32, logits.shape, 2, out_sharding=self.rules.spec("batch", "sequence", "vocab")
        )
        return jnp.where(token < self.config.vocab_size, logits, -jnp.inf)

    def padded_logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return fp32 logits whose padding, from `vocab_size` on, means nothing."""
        return getattr(self, "output", self.tokens).logits(self._whole(hidden))

    def _whole(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Bring positions together that tensor devices share, as the output product needs it."""
        cut = self.rules.spec("batch", "sequence", "embed", "vocab")
        return reshard(hidden, PartitionSpec(*cut[:3]))


def block_layer(structure: nnx.GraphDef, remat: str) -> Layer:
    """Return a block as a function of the stream, its weights and what else it is given.

    Args:
        structure: of the blocks, as `nnx.split` gives it.
        remat: what it recomputes in the backward pass, as for the whole model.
    """

    def run(x: Array, weights: Any, given: tuple[Array, Inputs]) -> Array:
        number, inputs = given
        block, masks = nnx.merge(structure, weights), inputs.dropout and inputs.dropout.fold(number)
        attention = block.attention(inputs.segment_ids, masks)
        return block(x, inputs.positions, attention, masks)[0]

    if remat == "none":
        return run
    policy = jax.checkpoint_policies.save_only_these_names(PRODUCT)
    return jax.checkpoint(run, prevent_cse=False, policy=policy if remat == "products" else None)


def _dropped(x: Float[Array, "B T D"], rate: float, dropout: Dropout | None) -> Array:
    return x if dropout is None else dropout.hidden(x, rate)
