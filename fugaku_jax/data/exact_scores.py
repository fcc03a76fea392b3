"""A unigram model whose sums of scores are exact, so that a text is always cut in the same way.

SentencePiece adds the scores of a text's pieces in fp32, and starts anew at -1e5. So which of two
segmentations wins that differ by little, or not at all ("```" as "``", "`" or "`", "``"), depends
on how its rounding falls: on what stands before. Hugging Face's `tokenizers` adds in fp64, and its
rounding falls otherwise. Here scores are rounded to multiples of 2^-7, of which fp32 adds any
exactly up to 2^17: then a segmentation depends on its own pieces alone, and equals are decided by
the order of the search, which is the same in both.
Source: Kudo, "Subword Regularization", 2018 (arXiv:1804.10959); SentencePiece, unigram_model.cc.
"""

import math
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

model_pb2: Any = sentencepiece_model_pb2  # its classes are made when it is imported

LARGEST = 64_000_000
"""Most bytes of a model; that of 256,000 pieces has five million."""
GRID = 2.0**-7
_USER_DEFINED = 0.0  # above every logarithm of a probability


def with_exact_scores(model_bytes: bytes) -> bytes:
    """Round the scores of a serialised SentencePiece model, if it is a unigram model.

    User-defined pieces, which SentencePiece takes wherever it can, become normal ones above all
    others.

    Raises:
        ValueError: the model is none, it is too large, or a piece has no text or no score.
    """
    if len(model_bytes) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    try:
        model = model_pb2.ModelProto.FromString(model_bytes)
    except DecodeError as error:
        raise ValueError("it cannot be decoded") from error
    for each in model.pieces:
        # Of a text that is no UTF-8 protobuf gives the bytes.
        if not isinstance(each.piece, str) or not math.isfinite(each.score):
            raise ValueError("a piece has no text or no score")
    if not model.pieces:
        raise ValueError("it has no pieces")
    if model.trainer_spec.model_type != model_pb2.TrainerSpec.UNIGRAM:
        return model_bytes
    kinds = model_pb2.ModelProto.SentencePiece
    for each in model.pieces:
        if each.type == kinds.USER_DEFINED:
            each.type, each.score = kinds.NORMAL, _USER_DEFINED
        each.score = round(each.score / GRID) * GRID
    return model.SerializeToString()


def cuts(model_bytes: bytes) -> bytes:
    """Return what decides how a serialised model cuts a text, and nothing of how it was made."""
    model = model_pb2.ModelProto.FromString(model_bytes)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    normal = model_pb2.ModelProto.SentencePiece.NORMAL
    pieces = [(x.piece, x.type, x.score if x.type == normal else 0.0) for x in model.pieces]
    ways = (
        *(trainer.model_type, trainer.byte_fallback, trainer.treat_whitespace_as_suffix),
        *(trainer.eos_piece, normalizer.precompiled_charsmap, normalizer.add_dummy_prefix),
        *(normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces),
    )
    return repr((ways, pieces)).encode()


def only_here(model_bytes: bytes) -> str | None:
    """Return why `tokenizers` could not be told to cut as a serialised model does, if it is so."""
    model = model_pb2.ModelProto.FromString(model_bytes)
    if model.trainer_spec.model_type != model_pb2.TrainerSpec.UNIGRAM:
        return "is no unigram model, the only kind that can be converted"
    normalizer = model.normalizer_spec
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        return "normalises text, which tokenizer.json would not do alike"
    return None
