"""What llama.cpp calls the tensors of a model, and how they lie there, from Hugging Face's.

Its matrices are `[out, in]`, as LLaMA's are and GPT-2's are not, and its LLaMA rotates neighbours
where Hugging Face rotates halves, so rows of queries and keys are put in another order.
Source: https://github.com/ggml-org/llama.cpp, conversion/llama.py (`permute`) and gpt2.py.
"""

import re

import numpy as np
from jaxtyping import Shaped

from fugaku_jax.config import ModelConfig
from fugaku_jax.interop.hf_weights import Tensor

_OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}
_INSIDE = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_LAYER = re.compile(r"(?:model\.layers|transformer\.h)\.(\d+)\.(.+)")


def gguf_name(tensor: Tensor) -> str:
    """Return what llama.cpp calls a tensor."""
    module, _, kind = tensor.name.rpartition(".")
    inside = _LAYER.fullmatch(module)
    if inside:
        return f"blk.{inside[1]}.{_INSIDE[inside[2]]}.{kind}"
    return f"{_OUTSIDE[module]}.{kind}"


def gguf_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return its shape there, the dimension that varies fastest last."""
    return tensor.shape[::-1] if _is_turned(tensor) else tensor.shape


def gguf_values(
    tensor: Tensor, values: Shaped[np.ndarray, "..."], model: ModelConfig
) -> Shaped[np.ndarray, "..."]:
    """Return it as it lies there.

    Args:
        tensor: which one it is.
        values: it, as Hugging Face has it.
        model: the model it is of.
    """
    if _is_turned(tensor):
        return np.ascontiguousarray(values.T)
    if ".self_attn.q_proj." in tensor.name or ".self_attn.k_proj." in tensor.name:
        halves = values.reshape(-1, 2, model.head_dim // 2, values.shape[-1])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return values


def _is_turned(tensor: Tensor) -> bool:
    """Tell whether it is `[in, out]`."""
    return tensor.layer is not None and len(tensor.shape) == 2 and not tensor.transposed
