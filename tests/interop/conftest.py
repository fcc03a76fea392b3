"""A store with a tokenizer, for the runs that are converted."""

import numpy as np
import pytest
from small_runs import TEXTS, VOCAB

from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import train
from fugaku_jax.data.writer import EncodedDocument, StoreWriter
from fugaku_jax.ledger.documents import DocumentRow


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A store of one document, whose tokenizer has pieces for Japanese and English."""
    url = str(tmp_path_factory.mktemp("store"))
    tokenizer = train(TEXTS * 9, VOCAB)
    with StoreWriter(url, tokenizer) as writer:
        each = writer.add_set("tales")
        text = TEXTS[0].encode()
        tokens = np.array([*tokenizer.encode(TEXTS[0]), tokenizer.end_of_document], np.uint16)
        row = DocumentRow("tales:0", "tales", "CC0-1.0", "0" * 64, len(tokens), len(text))
        each.append(EncodedDocument(row, tokens, text), "train")
        each.finish("ja", 1.0)
        writer.publish()
    return Store.open(url)
