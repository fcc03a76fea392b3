"""`trace.py influence` compares gradients of documents with that of a prompt."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fugaku_jax.errors import InputError
from fugaku_jax.models.layout import layout_for_use
from fugaku_jax.tracing.influence import (
    TextGradient,
    influences,
    seen_documents,
    some_seen_documents,
)
from fugaku_jax.tracing.matches import traced_text
from fugaku_jax.tracing.rows import traced_step
from fugaku_jax.tracing.text_index import TextIndex, build_index
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.training import loop
from fugaku_jax.training.checkpoint import load_model

STEPS = 60


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A run that has learned its few documents, in an order that begins anew after each epoch."""
    run_dir = tmp_path_factory.mktemp("influence") / "run"
    model = dataclasses.replace(config.model, dropout=0.0, attention_dropout=0.0)
    training = dataclasses.replace(
        config.training,
        steps=STEPS,
        batch_size=32,
        sample_tokens=0,
        validate_every=0,
    )
    every = dataclasses.replace(config.checkpoint, every=STEPS)
    loop.train(
        dataclasses.replace(config, model=model, training=training, checkpoint=every), run_dir
    )
    return run_dir


@pytest.mark.slow
def test_the_document_that_a_prompt_is_of_comes_first(trained, trace, tmp_path):
    run = TracedRun(trained)
    span = max(
        (span for row in traced_step(run, STEPS) for span in row.spans), key=lambda x: x.characters
    )
    others = [each.document for each in some_seen_documents(run, 12)]
    assert len(set(others)) == 12
    asked = sorted({*others, span.document})
    told = json.loads(
        trace(trained, "influence", "--prompt", span.text, "--candidates", *asked, "--json")
    )
    found = told["documents"]
    assert sorted(each["document"] for each in found) == asked
    assert found[0]["document"] == span.document
    assert 1 >= found[0]["cosine"] > found[1]["cosine"]
    with pytest.raises(InputError, match="--prompt is empty"):
        trace(trained, "influence", "--prompt", "", "--candidates", 1)
    asked = "influence", "--prompt", span.text, "--candidates", 3, "--html", tmp_path / "page.html"
    assert "cosine +" in trace(trained, *asked)
    assert "cosine +" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_without_candidates_they_are_the_documents_that_hold_a_part_of_the_prompt(
    trained, trace, tmp_path
):
    run = TracedRun(trained)
    build_index(run.store, tmp_path)
    span = max((s for row in traced_step(run, 2) for s in row.spans), key=lambda s: s.characters)
    asked = ("influence", "--prompt", f"ξ{span.text}ξ", "--index", tmp_path, "--json")
    found = [each["document"] for each in json.loads(trace(trained, *asked))["documents"]]
    spans = traced_text(run, TextIndex(tmp_path, run.store), f"ξ{span.text}ξ").spans
    assert set(found) == {each.document for x in spans for each in x.documents if each.steps}
    assert span.document in found
    with pytest.raises(InputError, match=r"No part of the prompt .* --candidates 50"):
        trace(trained, "influence", "--prompt", "ξξξ", "--index", tmp_path)


@pytest.mark.slow
def test_cosine_and_dot_are_those_of_the_gradients_of_a_loss_written_anew(trained):
    run = TracedRun(trained)
    config, model = load_model(trained)
    structure, weights = nnx.split(model)
    end, T = run.store.end_of_document, config.model.sequence_length

    def loss(weights, tokens):
        """Of a text, window by window."""
        stream, total = [end, *tokens], 0.0
        for first in range(0, len(tokens), T):
            window = jnp.array(stream[first : first + T + 1])[None]
            model = nnx.merge(structure, weights)
            likely = jax.nn.log_softmax(model.logits(model(window[:, :-1])))
            total -= jnp.take_along_axis(likely, window[:, 1:, None], -1).sum()
        return total / len(tokens)

    # A document of more than a window, so that one is padded.
    document = next(x for x in some_seen_documents(run, 40) if x.tokens > T and x.tokens % T)
    prompt = "むかしむかし、"
    (found,) = influences(run, TextGradient(config, model, end), prompt, [document])
    place = np.array([document.first_token])
    own = run.store.read(document.set_index, "train", place, document.tokens)[0].tolist()
    assert own[-1] == end
    with layout_for_use(config).active():
        gradient, said = jax.grad(loss), run.tokenizer.encode(prompt)
        way = gradient(weights, own)
        one, other = (
            np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(each)])
            for each in (gradient(weights, said), way)
        )

        def along(step):
            return float(loss(jax.tree.map(lambda w, g: w + step * g, weights, way), said))

        # What the product means: how the prompt's loss falls along the document's gradient.
        slope = (along(1e-2) - along(-1e-2)) / 2e-2
    assert found.dot == pytest.approx(one @ other, rel=1e-3, abs=1e-6)
    assert found.cosine == pytest.approx(
        one @ other / np.linalg.norm(one) / np.linalg.norm(other), rel=1e-3, abs=1e-6
    )
    assert found.dot == pytest.approx(slope, rel=0.05)


def test_what_cannot_be_compared_gets_a_sentence(trace, begun):
    run_dir, store = begun
    with pytest.raises(InputError, match="document nobody: none in"):
        trace(run_dir, "influence", "--prompt", "a", "--candidates", "nobody")
    with pytest.raises(InputError, match="has taken no step yet"):
        trace(run_dir, "influence", "--prompt", "a", "--candidates", 3)
    held_out = next(store.documents(0, "validation").tables(["id"]))["id"][0].as_py()
    with pytest.raises(InputError, match=f"document {held_out}: no step of .* reads it"):
        seen_documents(TracedRun(run_dir), [held_out])
