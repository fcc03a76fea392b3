"""One tokenizer of several domains, as llm-jp made its own: trained apart, merged, scored anew.

A trainer that sees all domains at once gives most pieces to the largest. Here each has the pieces
that it was given; the scores, which then belong to different models, are estimated again on the
texts of all, by expectation and maximisation over the best segmentations.
Source: Kudo 2018 (arXiv:1804.10959) for the model; https://github.com/llm-jp/llm-jp-tokenizer.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.tokenizer import Tokenizer, train
from fugaku_jax.errors import InputError

ROUNDS = 4
"""Of segmenting and counting; the scores hardly move after that."""
_UNSEEN = 0.5  # added to each count, so that a piece which is not used has a score too


def train_merged(texts: Mapping[str, Sequence[str]], pieces: Mapping[str, int]) -> Tokenizer:
    """Trains a tokenizer of each domain, and makes one of all their pieces.

    Args:
        texts: of each domain.
        pieces: that each domain's own tokenizer has, with those for bytes, spaces and control.

    Raises:
        InputError: as `train`, or the domains are not the same.
    """
    if set(texts) != set(pieces):
        raise InputError(
            f"--pieces: must name the domains {', '.join(sorted(texts))}, got "
            f"{', '.join(sorted(pieces))}."
        )
    merged = merge([_trained(domain, texts[domain], pieces[domain]) for domain in texts])
    return rescore(merged, [text for each in texts.values() for text in each])


def _trained(domain: str, texts: Sequence[str], pieces: int) -> Tokenizer:
    try:
        return train(texts, pieces)
    except InputError as error:
        raise InputError(f"domain {domain}: {error}") from error


def merge(tokenizers: Sequence[Tokenizer]) -> Tokenizer:
    """A tokenizer of the pieces of all; the first one's come first, and keep their numbers.

    A piece of several has the highest of its scores.
    """
    model = model_pb2.ModelProto.FromString(tokenizers[0].model_bytes)
    known = {each.piece: each for each in model.pieces}
    for tokenizer in tokenizers[1:]:
        for each in model_pb2.ModelProto.FromString(tokenizer.model_bytes).pieces:
            if each.piece in known:
                known[each.piece].score = max(known[each.piece].score, each.score)
            else:
                added = model.pieces.add(piece=each.piece, score=each.score, type=each.type)
                known[each.piece] = added
    model.trainer_spec.vocab_size = len(model.pieces)
    return Tokenizer(model.SerializeToString())


def rescore(tokenizer: Tokenizer, texts: Sequence[str], rounds: int = ROUNDS) -> Tokenizer:
    """The same pieces with scores that are logarithms of how often texts are cut into them.

    Args:
        tokenizer: whose scores to begin from.
        texts: to cut.
        rounds: how often they are cut and the pieces counted.
    """
    data = [text.encode() for text in texts]
    normal = model_pb2.ModelProto.SentencePiece.NORMAL
    for _ in range(rounds):
        counts = Counter[int]()
        for ids in tokenizer.encode_arrays(data):
            counts.update(ids.tolist())
        model = model_pb2.ModelProto.FromString(tokenizer.model_bytes)
        scored = [n for n, each in enumerate(model.pieces) if each.type == normal]
        total = sum(counts[n] + _UNSEEN for n in scored)
        for n in scored:
            model.pieces[n].score = math.log((counts[n] + _UNSEEN) / total)
        tokenizer = Tokenizer(model.SerializeToString())
    return tokenizer
