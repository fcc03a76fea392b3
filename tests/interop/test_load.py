"""A model is loaded for use from a run and from a model directory of Hugging Face's alike."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import GPT2, LLAMA, logits, make_run, same_bits

from fugaku_jax.data.batch import document_segments
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import prompt_tokens
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.training.checkpoint import RunCheckpoints

GIGABYTE = 10**9


def test_weights_are_cast_as_they_are_read_and_moments_are_not_read(store, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", LLAMA, store)
    export_run(run, tmp_path / "out", store, "bfloat16", GIGABYTE)
    monkeypatch.setattr(RunCheckpoints, "restore", None)
    _, ours, _, _ = load_for_inference(run, jnp.bfloat16)
    _, theirs, _, _ = load_for_inference(tmp_path / "out", jnp.bfloat16)
    same_bits(ours, theirs)


def test_what_is_no_model_is_refused(store, tmp_path):
    with pytest.raises(InputError, match="is no directory"):
        load_for_inference(tmp_path / "absent", jnp.float32)
    with pytest.raises(InputError, match="is no run"):
        load_for_inference(tmp_path, jnp.float32)
    export_run(make_run(tmp_path / "run", LLAMA, store), tmp_path / "out", store, "float16", 10**9)
    (tmp_path / "out" / "sentencepiece.model").unlink()
    (tmp_path / "out" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.model"):
        load_for_inference(tmp_path / "out", jnp.float32)


@pytest.mark.slow
def test_a_text_is_read_as_training_read_its_documents(store, tmp_path):
    run = make_run(tmp_path / "run", GPT2, store, reset=True)
    _, model, tokenizer, first_token = load_for_inference(run, jnp.float32)
    prompt = prompt_tokens(tokenizer, first_token, "the rain")
    assert prompt_tokens(tokenizer, first_token, "") == [store.end_of_document]
    row = [*tokenizer.encode("むか"), store.end_of_document, *prompt, store.end_of_document]
    tokens = np.array([row], np.int32)
    segments = jnp.array(document_segments(tokens, store.end_of_document))
    hidden = model(jnp.array(tokens[:, :-1]), segment_ids=segments)
    trained = np.asarray(model.logits(hidden))[0, -len(prompt) :]
    alone = logits(model, np.array([prompt], np.int32))[0]
    np.testing.assert_allclose(alone, trained[:, : alone.shape[-1]], atol=1e-5, rtol=0)
