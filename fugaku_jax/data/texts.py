"""The texts of inputs, those that a store would hold out or those that it would train on."""

import hashlib
from collections.abc import Iterator, Sequence

from fugaku_jax.data.corpus import BadLine, Document, parse_block, read_blocks
from fugaku_jax.data.held_out import is_held_out
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.token_blocks import is_tokens
from fugaku_jax.errors import InputError


def read_texts(each: InputSet, fraction: float, held_out: bool) -> Iterator[str]:
    """The texts of a set in order.

    Args:
        each: the set.
        fraction: of the documents that a store holds out.
        held_out: whether those, or the others.

    Raises:
        InputError: an input is wrong, or holds tokens.
    """
    for path in each.paths:
        if is_tokens(path):
            raise InputError(f"input {path}: holds tokens, but texts are needed.")
        for block in read_blocks(path):
            for document in [block] if isinstance(block, BadLine) else parse_block(block):
                if not isinstance(document, Document):
                    raise InputError(document.sentence)
                sha256 = hashlib.sha256(document.text.encode()).hexdigest()
                if is_held_out(sha256, fraction) == held_out:
                    yield document.text


def texts_by_domain(
    sets: Sequence[InputSet], fraction: float, held_out: bool, most_bytes: float
) -> dict[str, Iterator[str]]:
    """The texts of each domain, its sets one after the other, until that many bytes of UTF-8.

    Args:
        sets: inputs of texts.
        fraction: as of `read_texts`, whose errors are raised as the texts are taken.
        held_out: likewise.
        most_bytes: of a domain, to the end of a document.
    """
    domains = dict.fromkeys(each.domain for each in sets)

    def texts(domain: str) -> Iterator[str]:
        size = 0
        for each in sets:
            for text in read_texts(each, fraction, held_out) if each.domain == domain else ():
                if size >= most_bytes:
                    return
                yield text
                size += len(text.encode())

    return {domain: texts(domain) for domain in domains}
