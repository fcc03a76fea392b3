"""Likelihoods of texts that begin alike are those of each text alone, on whatever mesh."""

import json
from pathlib import Path

import jax
import likelihoods_on_meshes as program
import numpy as np
import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.likelihoods import Likelihoods
from fugaku_jax.evaluation.prefix_trees import AT_A_PLACE, pack_trees

LENGTH = 32


def drawn_texts(seed: int) -> list[tuple[int, list[int], list[int]]]:
    """Texts of few kinds of tokens, so that many begin alike and some are the same."""
    random = np.random.default_rng(seed)
    found = []
    for owner in range(60):
        text = random.integers(0, 3, random.integers(1, LENGTH + 1)).tolist()
        asked = random.integers(0, 40, random.integers(0, len(text) + 1)).tolist()
        found.append((owner, text, asked))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_what_a_token_of_a_tree_sees_is_its_own_text(seed):
    texts = drawn_texts(seed)
    rows = list(pack_trees(texts, LENGTH))
    assert sorted(owner for row in rows for owner in row.owners) == list(range(len(texts)))
    for row in rows:
        seen = [
            [row.tokens[j] for j in range(i + 1) if i < row.ends[j]] for i in range(len(row.tokens))
        ]
        assert len(row.tokens) <= LENGTH
        assert len(row.places) <= 2 * LENGTH
        assert [len(each) - 1 for each in seen] == row.positions
        assert len({tuple(each) for each in seen}) == len(seen)  # nothing is there twice
        assert all(0 < len(set(each)) == len(each) <= AT_A_PLACE for each in row.targets)
        for owner, answers in zip(row.owners, row.answers, strict=True):
            _, text, asked = texts[owner]
            assert [row.targets[each.entry][each.number] for each in answers] == asked
            first = len(text) - len(asked) + 1
            for length, answer in enumerate(answers, start=first):
                assert seen[row.places[answer.entry]] == text[:length]


def one_by_one(model, asked) -> list[tuple[float, bool]]:
    """Run texts beside each other, and sum in float64."""
    found, length = [], model.config.sequence_length
    rows = [[*before, *following][-(length + 1) :] for before, following in asked]
    tokens = np.zeros((len(rows), length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row) - 1] = row[:-1]
    logits = np.asarray(jax.jit(lambda tokens: model.logits(model(tokens)))(tokens))
    for row, (_, following), all_ in zip(rows, asked, logits, strict=True):
        here = all_[len(row) - 1 - len(following) : len(row) - 1, : model.config.vocab_size]
        here = np.float64(here)
        here -= np.log(np.exp(here).sum(1, keepdims=True))
        chosen = here[np.arange(len(following)), following]
        found.append((chosen.sum(), bool((here.argmax(1) == following).all())))
    return found


@pytest.fixture(scope="module")
def on_meshes(run_emulated):
    """What `likelihoods_on_meshes.py` finds on each mesh of four emulated devices."""
    return json.loads(run_emulated(Path(program.__file__), 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", program.MODELS)
def test_likelihoods_on_any_mesh_are_those_of_each_text_alone(name, on_meshes):
    asked = program.requests()
    wanted = one_by_one(program.make({"data": 1}, program.MODELS[name]), asked)
    assert any(greedy for (_, greedy), (_, text) in zip(wanted, asked, strict=True) if text)
    for found in on_meshes[name]:
        # fp32 sums of some hundred terms in another order, of up to 90 tokens.
        assert [value for value, _ in found] == pytest.approx([v for v, _ in wanted], abs=1e-3)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_what_follows_and_has_no_room_is_one_sentence():
    model = program.make({"data": 1}, program.GPT2)
    with pytest.raises(InputError, match="has 301 tokens, but the model has 300 positions in all"):
        Likelihoods(model, "float32")([([1], [1] * 301)])
