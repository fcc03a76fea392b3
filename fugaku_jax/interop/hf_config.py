"""The shape of a model as Hugging Face's `config.json` says it."""

from typing import Any

from fugaku_jax.config import ModelConfig


def to_hf_config(model: ModelConfig, end_ids: list[int], dtype: str) -> dict[str, Any]:
    """Return the fields of `config.json`.

    Args:
        model: the model; its vocabulary's padding is left out.
        end_ids: the ids that end a text; what training ended documents with comes first.
        dtype: the type of the weights.
    """
    common = {
        "vocab_size": model.vocab_size,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied,
        "bos_token_id": end_ids[0],  # training put it before every document
        "eos_token_id": end_ids[0],
        "dtype": dtype,
        "torch_dtype": dtype,  # before transformers 4.56
        "use_cache": True,
    }
    if model.family == "llama":
        return common | {
            "architectures": ["LlamaForCausalLM"],
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
        "architectures": ["GPT2LMHeadModel"],
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
