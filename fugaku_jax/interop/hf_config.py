"""The shape of a model as Hugging Face's `config.json` says it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from fugaku_jax.config import ModelConfig
from fugaku_jax.errors import InputError
from fugaku_jax.json_types import shown, typed

ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
"""Theirs, by the name that our families and their `model_type` share."""
_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh")

Value = TypeVar("Value", int, float, bool)


def to_hf_config(
    model: ModelConfig, first_token: int | None, end_ids: list[int], dtype: str
) -> dict[str, Any]:
    """Return the fields of `config.json`.

    Args:
        model: the model; its vocabulary's padding is left out.
        first_token: what stands before every text; None for nothing.
        end_ids: the ids that end a text; what training ended documents with comes first.
        dtype: the type of the weights.
    """
    common = {
        "vocab_size": model.vocab_size,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied,
        "bos_token_id": first_token,
        "eos_token_id": end_ids[0],
        "dtype": dtype,
        "torch_dtype": dtype,  # before transformers 4.56
        "use_cache": True,
    }
    if model.family == "llama":
        return common | {
            "architectures": [ARCHITECTURES["llama"]],
            "model_type": "llama",
            "hidden_size": model.d_model,
            "num_hidden_layers": model.n_layers,
            "num_attention_heads": model.n_heads,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "intermediate_size": model.feed_forward,
            "max_position_embeddings": model.sequence_length,
            "hidden_act": "silu",
            "rms_norm_eps": model.layer_norm_epsilon,
            "rope_theta": model.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": model.attention_dropout,
        }
    return common | {
        "architectures": [ARCHITECTURES["gpt2"]],
        "model_type": "gpt2",
        "n_embd": model.d_model,
        "n_layer": model.n_layers,
        "n_head": model.n_heads,
        "n_inner": model.feed_forward,
        "n_positions": model.sequence_length,
        "n_ctx": model.sequence_length,  # llama.cpp's converter asks for it
        "activation_function": "gelu_new",  # by tanh; "gelu" would be by erf
        "layer_norm_epsilon": model.layer_norm_epsilon,
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.attention_dropout,
        "scale_attn_weights": True,
    }


def from_hf_config(fields: Mapping[str, Any], name: str) -> ModelConfig:
    """Return the model that `config.json` describes.

    What it leaves out is as `transformers` has it.

    Args:
        fields: the contents of the file.
        name: what errors call it by.

    Raises:
        InputError: the architecture is another, or does something that our model does not.
    """
    theirs = fields.get("architectures") or [ARCHITECTURES.get(str(fields.get("model_type")))]
    known = {architecture: family for family, architecture in ARCHITECTURES.items()}
    if not isinstance(theirs, list) or theirs[0] not in list(known):
        raise InputError(
            f"{name}: the architecture is {shown(theirs)}, but it must be one of "
            f"{', '.join(known)}."
        )
    if fields.get("quantization_config") is not None:
        raise InputError(f"{name}: the weights are quantised; give those before.")
    reader = _Fields(fields, name)
    try:
        return _llama(reader) if known[theirs[0]] == "llama" else _gpt2(reader)
    except InputError as error:
        raise InputError(str(error) if name in str(error) else f"{name}: {error}") from error


def _gpt2(fields: "_Fields") -> ModelConfig:
    fields.must_be("activation_function", "gelu_new", *_TANH_GELUS)
    fields.must_be("scale_attn_weights", True, True)
    for other in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        fields.must_be(other, False, False)
    fields.must_be("add_cross_attention", False, False)
    width, inner = fields.get("n_embd", int), fields.get("n_inner", int, 0)
    return ModelConfig(
        vocab_size=fields.get("vocab_size", int),
        n_layers=fields.get("n_layer", int),
        d_model=width,
        n_heads=fields.get("n_head", int),
        sequence_length=fields.get("n_positions", int),
        d_ff=None if inner in (0, 4 * width) else inner,
        tied=fields.get("tie_word_embeddings", bool, True),
        dropout=fields.get("resid_pdrop", float, 0.1),
        attention_dropout=fields.get("attn_pdrop", float, 0.1),
        init_std=fields.get("initializer_range", float, 0.02),
        layer_norm_epsilon=fields.get("layer_norm_epsilon", float, 1e-5),
    )


def _llama(fields: "_Fields") -> ModelConfig:
    fields.must_be("hidden_act", "silu", "silu", "swish")
    for other in ("attention_bias", "mlp_bias"):
        fields.must_be(other, False, False)
    width, heads = fields.get("hidden_size", int), fields.get("num_attention_heads", int)
    groups = fields.get("num_key_value_heads", int, heads)
    head_dim = fields.get("head_dim", int, width // max(heads, 1))
    if head_dim * heads != width:
        raise InputError(
            f"{fields.name}: head_dim is {head_dim}, but it must be hidden_size / "
            f"num_attention_heads, {width} / {heads}."
        )
    return ModelConfig(
        family="llama",
        vocab_size=fields.get("vocab_size", int),
        n_layers=fields.get("num_hidden_layers", int),
        d_model=width,
        n_heads=heads,
        n_kv_heads=None if groups == heads else groups,
        sequence_length=fields.get("max_position_embeddings", int),
        d_ff=fields.get("intermediate_size", int),
        tied=fields.get("tie_word_embeddings", bool, False),
        rope_theta=_rope_theta(fields),
        attention_dropout=fields.get("attention_dropout", float, 0.0),
        init_std=fields.get("initializer_range", float, 0.02),
        layer_norm_epsilon=fields.get("rms_norm_eps", float, 1e-6),
    )


def _rope_theta(fields: "_Fields") -> float:
    """Return the base of plain rotary positions, which stands in either of two places."""
    theta = fields.get("rope_theta", float, 10_000.0)
    for place in ("rope_scaling", "rope_parameters"):  # before transformers 5, and since
        rope = _Fields(fields.values.get(place) or {}, f"{fields.name}: {place}")
        kind = rope.values.get("rope_type", rope.values.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", float, 1.0) != 1:
            raise InputError(f"{rope.name} is {shown(rope.values)}, but it must be default.")
        theta = rope.get("rope_theta", float, theta)
    return theta


class _Fields:
    """Fields of a configuration, checked as they are read."""

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, Mapping):
            raise InputError(f"{name} is {shown(values)}, but it must be a JSON object.")
        self.values, self.name = values, name

    def get(self, field: str, kind: type[Value], default: Value | None = None) -> Value:
        """Return a field, which may only be absent or null if there is a default."""
        value = self.values.get(field)
        if value is None:
            if default is None:
                raise InputError(f"{self.name} has no {field}.")
            return default
        return typed(kind, value, f"{self.name}: {field}")

    def must_be(self, field: str, default: str | bool, *allowed: str | bool) -> None:
        """Refuse a field whose value our model does not know."""
        value = self.values.get(field, default)
        if value not in allowed:
            raise InputError(
                f"{self.name}: {field} is {shown(value)}, but it must be "
                f"{' or '.join(map(str, allowed))}."
            )
