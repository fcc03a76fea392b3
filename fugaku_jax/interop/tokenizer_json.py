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
NEVER = -1e5
"""The score of what is no piece of a text, below every other."""


def to_tokenizer_json(tokenizer: Tokenizer, first_token: int | None) -> dict[str, Any]:
    """Return the contents of `tokenizer.json`.

    It has no added tokens: control pieces are not read from text. Nothing is put behind a text.

    Args:
        tokenizer: the tokenizer.
        first_token: what is put before every text; None for nothing.

    Raises:
        InputError: the model is of another kind than unigram, or it normalises text.
    """
    if tokenizer.only_here:
        raise InputError(f"The tokenizer {tokenizer.only_here}.")
    model = model_pb2.ModelProto.FromString(tokenizer.exact_model_bytes)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
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
        "post_processor": None if first_token is None else _put_before(model, first_token),
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


def puts_space_before(tokenizer: Tokenizer) -> bool:
    """Tell whether it puts a space of its own before every text."""
    model = model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    return model.normalizer_spec.add_dummy_prefix


def _scored(model: Any) -> Iterator[tuple[str, float]]:
    """Yield the pieces with the scores that choose as SentencePiece does."""
    for each in model.pieces:
        is_normal = each.type == model_pb2.ModelProto.SentencePiece.NORMAL
        yield each.piece, each.score if is_normal else NEVER


def _put_before(model: Any, token: int) -> dict[str, Any]:
    """Return what puts a token before a text, and before the first one of a pair."""
    piece = model.pieces[token].piece
    first, text, other = (
        {"SpecialToken": {"id": piece, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, other],
        "special_tokens": {piece: {"id": piece, "ids": [token], "tokens": [piece]}},
    }
