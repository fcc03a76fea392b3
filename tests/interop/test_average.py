"""The mean of models' weights, against NumPy's."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from small_runs import LLAMA, make_run, same_bits

from fugaku_jax.data.tokenizer import train
from fugaku_jax.errors import InputError
from fugaku_jax.interop.average import open_average
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.import_run import import_run
from fugaku_jax.interop.spoken import open_spoken
from fugaku_jax.run.identity import LEDGER_FILE
from fugaku_jax.training.checkpoint import load_model
from fugaku_jax.tuning.chat_template import FUGAKU
from fugaku_jax.tuning.data_of_run import give_template, template_of_run


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """Two runs of other weights, and a model directory of the second."""
    folder = tmp_path_factory.mktemp("runs")
    one, two = (make_run(folder / name, LLAMA, store, seed=seed) for seed, name in enumerate("ab"))
    export_run(two, folder / "hf", store, "float32", 10**9)
    return one, two, folder / "hf"


def weights(run):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(load_model(run)[1])))


def test_every_weight_is_the_mean_rounded_once(runs, tmp_path):
    one, two, hf = runs
    import_run(open_average([one, two, hf]), tmp_path / "mean")
    found, *given = (weights(run) for run in (tmp_path / "mean", one, two))
    rows = LLAMA.vocab_size  # behind it is padding
    for (path, got), x, y in zip(
        jax.tree.leaves_with_path(found), *map(jax.tree.leaves, given), strict=True
    ):
        expected = ((x.astype(np.float64) + y + y) / 3).astype(np.float32)
        some = slice(rows if path[0].key in ("tokens", "output") else None)
        np.testing.assert_array_equal(got[some], expected[some], str(path))


def test_the_mean_of_a_model_with_itself_is_that_model(runs, tmp_path):
    one, _, _ = runs
    import_run(open_average([one, one / "checkpoints" / "7", one]), tmp_path / "mean")
    same_bits(load_model(tmp_path / "mean")[1], load_model(one)[1])


def test_it_speaks_as_the_models_did_and_says_what_it_is_of(runs, store, tmp_path):
    one, two, _ = runs
    import_run(open_average([one, two]), tmp_path / "mean")
    mean, before = open_spoken(tmp_path / "mean"), open_spoken(one)
    assert (mean.first_token, mean.chat_template) == (before.first_token, before.chat_template)
    assert mean.tokenizer.sha256 == store.tokenizer().sha256
    origin = json.loads((tmp_path / "mean" / LEDGER_FILE).read_text())["imported"]
    assert [(each["path"], each["step"]) for each in origin["of"]] == [
        (str(one), 7),
        (str(two), 7),
    ]
    export_run(tmp_path / "mean", tmp_path / "hf", None, "float32", 10**9)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "the mean of the weights of `a` at step 7" in card
    assert "`b` at step 7" in card
    assert "stands in their ledgers" in card


def test_a_chat_template_goes_along_with_weights(runs, tmp_path):
    *_, hf = runs
    import_run(open_hf(hf), tmp_path / "again")
    assert template_of_run(tmp_path / "again") == FUGAKU
    import_run(dataclasses.replace(open_average([hf, hf]), template="もし"), tmp_path / "mean")
    assert template_of_run(tmp_path / "mean") == "もし"


def test_models_that_have_no_mean_are_refused(runs, make_store, store, tmp_path):
    one, two, hf = runs
    wide = make_run(tmp_path / "wide", dataclasses.replace(LLAMA, d_ff=100), store)
    others = make_store(train(["another text altogether"] * 9, 287))
    other = make_run(tmp_path / "other", LLAMA, others)
    begins = make_run(tmp_path / "begins", LLAMA, store, reset=True)
    told = make_run(tmp_path / "told", LLAMA, store)
    give_template(told, "{{ messages }}")
    for places, sentence in (
        ([one], "two models or more"),
        ([one, wide], f"{one} and {wide} have no mean: their shapes differ"),
        ([one, two, other], "their tokenizers differ"),
        ([hf, begins], "other tokens stand before their texts"),
        ([one, told], "different chat templates"),
        ([one, one / "checkpoints" / "8"], "no checkpoint of step 8; it has 7"),
        ([one, tmp_path], "is no run"),
    ):
        with pytest.raises(InputError, match=sentence):
            open_average(places)
