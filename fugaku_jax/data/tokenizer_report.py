"""What a tokenizer is made of, and how few tokens several of them need for the same texts."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.texts import texts_by_domain
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError

_SCRIPTS = ("HIRAGANA", "KATAKANA", "CJK", "LATIN", "DIGIT")


@dataclass(frozen=True)
class Thrift:
    """How a tokenizer cuts the texts of a domain."""

    documents: int
    characters: int
    bytes: int  # in UTF-8
    tokens: int  # without those that end documents
    byte_tokens: int  # of them, those that stand for a byte that no piece has

    @property
    def characters_per_token(self) -> float:
        """The higher, the fewer tokens a text takes."""
        return self.characters / max(self.tokens, 1)


def piece_kinds(tokenizer: Tokenizer) -> dict[str, int]:
    """How many pieces are of each kind, as SentencePiece names them in lower case."""
    kinds = model_pb2.ModelProto.SentencePiece.Type
    pieces = model_pb2.ModelProto.FromString(tokenizer.model_bytes).pieces
    return dict(Counter(kinds.Name(each.type).lower() for each in pieces))


def piece_scripts(tokenizer: Tokenizer) -> dict[str, int]:
    """How many normal pieces are of each script, by Unicode's names of their characters.

    A piece of several scripts counts as mixed; one with neither letters nor digits as other.
    """
    normal = model_pb2.ModelProto.SentencePiece.NORMAL
    pieces = model_pb2.ModelProto.FromString(tokenizer.model_bytes).pieces
    return dict(Counter(_script(each.piece) for each in pieces if each.type == normal))


def compare(
    tokenizers: Mapping[str, Tokenizer],
    sets: Sequence[InputSet],
    held_out: float,
    most_bytes: int,
) -> dict[str, dict[str, Thrift]]:
    """Cuts the held-out texts of each domain by each tokenizer.

    Args:
        tokenizers: by the names to call them.
        sets: inputs of texts.
        held_out: the fraction of documents that a store with it would hold out; 1: all.
        most_bytes: of texts of a domain that are read, to the end of a document.

    Returns:
        By domain, then by tokenizer.

    Raises:
        InputError: an input is wrong, or no text of a domain is held out.
    """
    if not 0 < held_out <= 1:
        raise InputError(f"--held-out: must be above 0, and 1 at most, got {held_out}.")
    texts = texts_by_domain(sets, held_out, True, most_bytes)
    return {domain: _cut(domain, tokenizers, its_texts) for domain, its_texts in texts.items()}


def comparison_table(
    found: Mapping[str, Mapping[str, Thrift]], tokenizers: Mapping[str, Tokenizer]
) -> Table:
    """What `compare` found, for a terminal. Names are text: rich would read markup in them."""
    table = Table(box=SIMPLE, title="characters a token (share of tokens that are bytes)")
    table.add_column("tokenizer")
    for domain in found:
        table.add_column(Text(domain), justify="right")
    for name, tokenizer in tokenizers.items():
        cells = [by_name[name] for by_name in found.values()]
        table.add_row(
            Text(f"{name} ({tokenizer.vocab_size:,})"),
            *(
                f"{x.characters_per_token:.3f} ({100 * x.byte_tokens / max(x.tokens, 1):.1f} %)"
                for x in cells
            ),
        )
    return table


def _cut(
    domain: str, tokenizers: Mapping[str, Tokenizer], texts: Iterator[str]
) -> dict[str, Thrift]:
    documents = characters = size = 0
    tokens, spelled = Counter[str](), Counter[str]()
    for text in texts:
        data = text.encode()
        documents, characters, size = documents + 1, characters + len(text), size + len(data)
        for name, tokenizer in tokenizers.items():
            ids = tokenizer.encode_array(data).tolist()
            tokens[name] += len(ids)
            spelled[name] += sum(tokenizer.byte(token) is not None for token in ids)
    if not documents:
        raise InputError(
            f"domain {domain}: none of its documents is held out; give more, "
            "or a larger --held-out."
        )
    return {
        name: Thrift(documents, characters, size, tokens[name], spelled[name])
        for name in tokenizers
    }


def _script(piece: str) -> str:
    scripts = set()
    for sign in piece.removeprefix("\u2581"):
        name = unicodedata.name(sign, "")
        if sign.isalnum() or name.startswith("KATAKANA"):
            known = [each for each in _SCRIPTS if each in name.split()]
            scripts.add(known[0].lower() if known else "other")
    return "mixed" if len(scripts) > 1 else next(iter(scripts), "other")
