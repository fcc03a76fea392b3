"""A model as a GGUF file, for llama.cpp and what is built on it, by the package `gguf`.

Source: https://github.com/ggml-org/ggml, docs/gguf.md.
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType

from fugaku_jax.errors import InputError
from fugaku_jax.interop.gguf_tensors import gguf_name, gguf_shape, gguf_values
from fugaku_jax.interop.gguf_vocabulary import KIND, vocabulary
from fugaku_jax.interop.hf_weights import Tensor, tensors
from fugaku_jax.interop.spoken import Spoken

FILE_TYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""Types of the matrices, and what the format calls these and a file of them."""
CUTS = (
    "Texts are cut as by the model's SentencePiece unigram model, by bytes too, but that of two "
    "cuts of equal scores the one with the longest first piece is taken, not that with the "
    "longest last, which is seen in runs of one character (0.05% of 2.9 million tokens by a "
    "tokenizer trained here, 0.6% of 3.2 million by llm-jp's); U+2581 is no space; and U+FEFF at "
    "the beginning is left out."
)
"""What is not alike in how llama.cpp cuts texts."""


def write_gguf(source: Spoken, out: Path, dtype: str) -> None:
    """Write a model, one tensor in memory at a time.

    Args:
        source: the model.
        out: the file; it must not exist yet, and appears when all is written.
        dtype: the type of the matrices, one of `FILE_TYPES`. Of `q8_0` are those whose rows are
            whole blocks of 32; others are float16, and vectors and positions float32.

    Raises:
        InputError: llama.cpp could not cut texts as the tokenizer does, the file exists already, or
            it cannot be written.
    """
    if out.exists():
        raise InputError(f"{out} exists already; give a file that does not.")
    kinds = {tensor: _kind(tensor, dtype) for tensor in tensors(source.model)}
    partial = out.with_name(f".{out.name}.unfinished")
    writer = gguf.GGUFWriter(partial, source.model.family)
    _describe(writer, source, dtype)
    _add_vocabulary(writer, source)
    for tensor, kind in kinds.items():
        shape = gguf.quant_shape_to_byte_shape(gguf_shape(tensor), kind)
        size = int(np.prod(shape, dtype=np.int64))
        writer.add_tensor_info(gguf_name(tensor), shape, np.dtype(np.uint8), size, kind)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_tensors(writer, source, kinds)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}.") from error


def _write_tensors(
    writer: gguf.GGUFWriter, source: Spoken, kinds: Mapping[Tensor, GGMLQuantizationType]
) -> None:
    """Write the file of which all but the tensors was told, and these one by one."""
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in kinds.items():
            values = gguf_values(tensor, source.read(tensor), source.model)
            writer.write_tensor_data(gguf.quantize(values.astype(np.float32), kind))


def _kind(tensor: Tensor, dtype: str) -> GGMLQuantizationType:
    """Return the type that a tensor is written in."""
    if len(tensor.shape) == 1 or tensor.path[0] == "positions":
        return GGMLQuantizationType.F32
    kind = FILE_TYPES[dtype][0]
    if kind == GGMLQuantizationType.Q8_0 and gguf_shape(tensor)[-1] % 32:
        return GGMLQuantizationType.F16
    return kind


def _describe(writer: gguf.GGUFWriter, source: Spoken, dtype: str) -> None:
    """Tell the shape of a model."""
    model = source.model
    writer.add_name(Path(source.origin["path"]).resolve().name)
    writer.add_description(CUTS)
    writer.add_file_type(FILE_TYPES[dtype][1])
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(model.sequence_length)
    writer.add_embedding_length(model.d_model)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.feed_forward)
    writer.add_head_count(model.n_heads)
    if model.family == "gpt2":
        writer.add_layer_norm_eps(model.layer_norm_epsilon)
        return
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(model.layer_norm_epsilon)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)


def _add_vocabulary(writer: gguf.GGUFWriter, source: Spoken) -> None:
    """Tell how texts are cut, what stands before and behind them, and how a dialogue is told."""
    tokenizer, first = source.tokenizer, source.first_token
    known = vocabulary(tokenizer, source.model.vocab_size)
    writer.add_tokenizer_model(KIND)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(known.texts)
    writer.add_token_scores(known.scores.tolist())
    writer.add_token_types(known.types)
    writer.add_add_space_prefix(False)
    end, *others = tokenizer.ends
    writer.add_bos_token_id(end if first is None else first)
    writer.add_add_bos_token(first is not None)
    writer.add_eos_token_id(end)
    writer.add_add_eos_token(False)
    writer.add_pad_token_id(end)
    writer.add_unk_token_id(known.types.index(gguf.TokenType.UNKNOWN))
    if others:
        writer.add_eot_token_id(others[0])
    if source.chat_template is not None:
        writer.add_chat_template(source.chat_template)
