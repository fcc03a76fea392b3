"""The texts of inputs, those that a store would hold out or those that it would train on."""

import hashlib
from collections.abc import Iterator

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
