"""Tokens that are no text, as those of images or sounds: a model that spells each by its number."""

from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError

_MOST = 1_000_000  # tokens; the model of so many has twenty million bytes


def number_tokenizer(count: int, end_of_document: int) -> Tokenizer:
    """The tokenizer of tokens from 0 to below `count`: `<17>` spells token 17.

    It has one token more, the last, for all that is no number of a token.

    Raises:
        InputError: there are no such tokens, or too many.
    """
    if not 2 <= count <= _MOST:
        raise InputError(f"--tokenizer numbers:{count}: must be from 2 to {_MOST:,} tokens.")
    if not 0 <= end_of_document < count:
        raise InputError(
            f"--end-of-document: must be a token, from 0 to {count - 1}, got {end_of_document}."
        )
    kinds = model_pb2.ModelProto.SentencePiece
    model = model_pb2.ModelProto()
    for token in range(count):
        if token == end_of_document:
            model.pieces.add(piece="</s>", score=0.0, type=kinds.CONTROL)
        else:
            model.pieces.add(piece=f"<{token}>", score=0.0, type=kinds.NORMAL)
    model.pieces.add(piece="<unk>", score=0.0, type=kinds.UNKNOWN)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size = model_pb2.TrainerSpec.UNIGRAM, count + 1
    trainer.unk_id, trainer.unk_piece, trainer.eos_piece = count, "<unk>", "</s>"
    normalizer.name, normalizer.add_dummy_prefix = "identity", False
    normalizer.remove_extra_whitespaces = False
    return Tokenizer(model.SerializeToString())
