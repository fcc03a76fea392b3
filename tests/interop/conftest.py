"""Stores with small tokenizers, for the runs that are converted."""

import numpy as np
import pytest
from small_runs import TEXTS, VOCAB

from fugaku_jax.data.exact_scores import model_pb2
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer, train
from fugaku_jax.data.writer import EncodedDocument, StoreWriter
from fugaku_jax.ledger.documents import DocumentRow


@pytest.fixture(scope="session")
def make_store(tmp_path_factory):
    """Make a store of one document a licence."""

    def make(tokenizer: Tokenizer, licences: tuple[str | None, ...] = ("CC0-1.0",)) -> Store:
        url = str(tmp_path_factory.mktemp("store"))
        with StoreWriter(url, tokenizer) as writer:
            each = writer.add_set("tales")
            text = TEXTS[0].encode()
            tokens = np.array([*tokenizer.encode(TEXTS[0]), tokenizer.end_of_document], np.uint16)
            for number, licence in enumerate(licences):
                name = f"tales:{number}"
                row = DocumentRow(name, "tales", licence, "0" * 64, len(tokens), len(text))
                each.append(EncodedDocument(row, tokens, text), "train")
            each.finish("ja", 1.0)
            writer.publish()
        return Store.open(url)

    return make


@pytest.fixture(scope="session")
def store(make_store):
    """A store whose tokenizer has pieces for Japanese and English."""
    return make_store(train(TEXTS * 9, VOCAB))


@pytest.fixture(scope="session")
def prefixing(store):
    """The same pieces in a tokenizer that puts a space before every text, as llm-jp's does."""
    model = model_pb2.ModelProto.FromString(store.tokenizer().model_bytes)
    model.normalizer_spec.add_dummy_prefix = True
    return Tokenizer(model.SerializeToString())
