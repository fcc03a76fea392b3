"""A SentencePiece unigram model as the `tokenizer.json` of Hugging Face's `tokenizers`.

Both search the segmentation of the largest sum of scores, in the same order, and with the scores
that our tokenizer uses both add exactly (`data.exact_scores`). One thing is not alike and put right
here: `tokenizers` finds every piece in the text, control pieces and bytes too, which SentencePiece
never does. They get a score with which none is chosen, unless a text has a character that no piece
is made of, which is worse.
"""

from collections.abc import Iterator
from typing import Any

from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError

SPACE = "\u2581"
_NEVER = -1e5  # below every other score


def to_tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the contents of `tokenizer.json`.

    It has no added tokens: control pieces are not read from text. Nothing is put behind a text.

    Raises:
        InputError: the model is of another kind than unigram, or it normalises text.
    """
    model = model_pb2.ModelProto.FromString(tokenizer.exact_model_bytes)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != model_pb2.TrainerSpec.UNIGRAM:
        raise InputError("The tokenizer is no unigram model, the only kind that can be converted.")
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        raise InputError("The tokenizer normalises text, which tokenizer.json would not do alike.")
    prefix = [{"type": "Prepend", "prepend": SPACE}] if normalizer.add_dummy_prefix else []
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *prefix,
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([strip] if prefix else []),
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": trainer.unk_id,
            "vocab": list(_scored(model)),
            "byte_fallback": trainer.byte_fallback,
        },
    }


def _scored(model: Any) -> Iterator[tuple[str, float]]:
    """Yield the pieces with the scores that choose as SentencePiece does."""
    for each in model.pieces:
        is_normal = each.type == model_pb2.ModelProto.SentencePiece.NORMAL
        yield each.piece, each.score if is_normal else _NEVER
