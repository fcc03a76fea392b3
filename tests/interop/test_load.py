"""A model is loaded for use from a run and from a model directory of Hugging Face's alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from small_runs import GPT2, LLAMA, MODELS, VOCAB, make_run
from transformers import AutoModelForCausalLM

from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.training.checkpoint import RunCheckpoints

GIGABYTE = 10**9


def logits(model, tokens):
    """Return the logits of tokens, without the vocabulary's padding."""
    graph, weights = nnx.split(model)

    @jax.jit
    def run(weights, tokens):
        model = nnx.merge(graph, weights)
        return model.logits(model(tokens))

    return np.asarray(run(weights, tokens))[..., : model.config.vocab_size]


def same_bits(one, other):
    """Hold two models' weights to be equal, but for the vocabulary's padding."""
    trees = [nnx.to_pure_dict(nnx.state(model)) for model in (one, other)]
    leaves = [jax.tree.leaves_with_path(tree) for tree in trees]
    for (path, x), (_, y) in zip(*leaves, strict=True):
        rows = VOCAB if path[0].key in ("tokens", "output") else None
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x)[:rows], np.asarray(y)[:rows], str(path))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_there_and_back_every_bit_is_the_same(model, store, tmp_path):
    run = make_run(tmp_path / "run", model, store)
    export_run(run, tmp_path / "out", store, "float32", 300_000)
    _, ours, tokenizer = load_for_inference(run, jnp.float32)
    shape, theirs, same_tokenizer = load_for_inference(tmp_path / "out", jnp.float32)
    assert shape.feed_forward == model.feed_forward
    assert shape.rope_theta == model.rope_theta
    same_bits(ours, theirs)
    padding = np.asarray(theirs.tokens.table[...])[VOCAB:]
    assert not padding.any()
    assert same_tokenizer.sha256 == tokenizer.sha256 == store.tokenizer().sha256


@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_logits_are_those_of_transformers(model, store, tmp_path):
    run = make_run(tmp_path / "run", model, store)
    export_run(run, tmp_path / "out", store, "bfloat16", GIGABYTE)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    _, ours, _ = load_for_inference(tmp_path / "out", jnp.float32)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, model.sequence_length), np.int32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_allclose(logits(ours, tokens), expected, atol=1e-4, rtol=0)


def test_weights_are_cast_as_they_are_read_and_moments_are_not_read(store, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", LLAMA, store)
    export_run(run, tmp_path / "out", store, "bfloat16", GIGABYTE)
    monkeypatch.setattr(RunCheckpoints, "restore", None)
    _, ours, _ = load_for_inference(run, jnp.bfloat16)
    _, theirs, _ = load_for_inference(tmp_path / "out", jnp.bfloat16)
    same_bits(ours, theirs)


def test_what_is_no_model_is_refused(store, tmp_path):
    with pytest.raises(InputError, match="is no directory"):
        load_for_inference(tmp_path / "absent", jnp.float32)
    with pytest.raises(InputError, match="is no run"):
        load_for_inference(tmp_path, jnp.float32)
    export_run(make_run(tmp_path / "run", LLAMA, store), tmp_path / "out", store, "float16", 10**9)
    (tmp_path / "out" / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.model"):
        load_for_inference(tmp_path / "out", jnp.float32)
