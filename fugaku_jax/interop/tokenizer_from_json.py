"""The SentencePiece model that a `tokenizer.json` was made of: what `tokenizer_json` does, undone.

`transformers` saves a tokenizer without its `tokenizer.model`. What comes back has the same pieces,
kinds and scores; it is taken only if it would be written as the file has it, so that both cut every
text alike.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.interop.tokenizer_json import NEVER, to_tokenizer_json

JSON_TOKENIZER = "tokenizer.json"
LARGEST = 1 << 26
"""Most bytes of a file that is read."""
_DECIDING = ("normalizer", "pre_tokenizer", "model")
"""What decides how a text is cut."""


def tokenizer_from_json(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a model directory; None if it is of another kind than ours.

    What ends documents is the `eos_token` of its configuration, or `</s>`.
    """
    content = _read(folder / JSON_TOKENIZER)
    match content.get("model"):
        case {"type": "Unigram", "unk_id": int(unknown), "vocab": list(vocab), **rest}:
            byte_fallback = rest.get("byte_fallback") is True
        case _:
            return None
    try:
        prefix = '{"type": "Prepend", ' in json.dumps(content.get("normalizer"))
        model = _model(vocab, unknown, byte_fallback, prefix, _end(folder))
        tokenizer = Tokenizer(model.SerializeToString())
        same = json.loads(json.dumps(to_tokenizer_json(tokenizer, None)))
        is_ours = all(content.get(key) == same[key] for key in _DECIDING)
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError):
        return None  # what stands there is no piece, or no score, or makes no tokenizer
    return tokenizer if is_ours else None


def _model(vocab: list[Any], unknown: int, byte_fallback: bool, prefix: bool, end: str) -> Any:
    kinds = model_pb2.ModelProto.SentencePiece
    model = model_pb2.ModelProto()
    for index, (piece, score) in enumerate(vocab):
        if not math.isfinite(score):
            raise ValueError(f"the score of {piece!r} is {score}")
        kind = kinds.NORMAL if score > NEVER else kinds.CONTROL
        if index == unknown:
            kind = kinds.UNKNOWN
        elif byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", piece):
            kind = kinds.BYTE
        model.pieces.add(piece=piece, score=score if kind == kinds.NORMAL else 0.0, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = model_pb2.TrainerSpec.UNIGRAM
    trainer.vocab_size, trainer.byte_fallback = len(vocab), byte_fallback
    trainer.unk_id, trainer.unk_piece, trainer.eos_piece = unknown, vocab[unknown][0], end
    normalizer.name, normalizer.add_dummy_prefix = "identity", prefix
    normalizer.remove_extra_whitespaces = False
    return model


def _end(folder: Path) -> str:
    end = _read(folder / "tokenizer_config.json").get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end  # with how it is found in a text
    return end if isinstance(end, str) else "</s>"


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is none."""
    try:
        if path.stat().st_size > LARGEST:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
