"""Items that stand in a store are those that preparing a corpus would find in its documents."""

import numpy as np
import pytest

from fugaku_jax.corpora.contamination import EvaluationTexts
from fugaku_jax.data.store import Store
from fugaku_jax.tracing.contamination import Contamination
from fugaku_jax.tracing.text_index import TextIndex, build_index


@pytest.fixture(scope="module")
def store(store_path):
    return Store.open(str(store_path))


@pytest.fixture(scope="module")
def contamination(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    build_index(store, folder)
    return Contamination(store, TextIndex(folder, store))


@pytest.fixture(scope="module")
def documents(store):
    tokenizer, found = store.tokenizer(), []
    for i, each in enumerate(store.sets):
        tokens = store.read(i, "train", np.array([0]), each.train.tokens)[0]
        cuts = np.flatnonzero(tokens == store.end_of_document) + 1
        found += [tokenizer.decode(part[:-1].tolist()) for part in np.split(tokens, cuts)[:-1]]
    return found


def test_parts_of_documents_are_found_as_by_the_rule_that_corpora_are_prepared_by(
    contamination, documents
):
    random, verdicts = np.random.default_rng(5), []
    for i in range(60):
        text = documents[random.integers(0, len(documents))]
        length = int(random.integers(5, 60))
        first = int(random.integers(0, max(1, len(text) - length)))
        part = text[first : first + length]
        # As a question would have it: other words around it, of another case and width.
        asked = (part, f"問：{part}", f"{part}、これは誰の言葉ですか？", part.upper(), part[::-1])
        said = asked[i % len(asked)]
        rule = EvaluationTexts([("", said)])
        expected = any(rule.found_in(each) for each in documents)
        verdicts.append(expected)
        if i % len(asked) != 3:  # what is written otherwise is other tokens
            assert contamination(said) == expected, said
        else:
            assert contamination(said) <= expected, said
    assert 10 < sum(verdicts) < 50  # both were seen


def test_what_nobody_wrote_and_nothing_at_all_is_not_found(contamination):
    assert not contamination("")
    assert not contamination("ξξξξξξξξξξξξξξξξξξξξξξξξξξξξξξ")
