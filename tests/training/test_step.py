"""The step: accumulation, schedules, loss scale, and what it may not do to memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.data.batch import Batch, document_segments
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training import precision
from fugaku_jax.training.spikes import WINDOW, RecentSteps
from fugaku_jax.training.state import init_state
from fugaku_jax.training.step import make_train_step

END = 2
AS_IN_A_RUN = {"xla_cpu_use_fusion_emitters": True}
"""How XLA compiles what is asked for its memory; see `conftest.py`."""


def batch(config, seed=0, change=None):
    shape = (
        config.training.micro_batches,
        config.training.batch_size // config.training.micro_batches,
        config.model.sequence_length + 1,
    )
    tokens = np.random.default_rng(seed).integers(0, config.model.vocab_size, shape, np.int32)
    if change:
        change(tokens)
    segments = document_segments(tokens, END) if config.data.reset_at_document else None
    return jax.device_put(Batch(tokens, segments=segments), make_layout(config).rows)


def without_dropout(change, **training):
    return change(model={"dropout": 0.0, "attention_dropout": 0.0}, training=training)


def run(config, tokens, steps=1):
    layout = make_layout(config)
    state, step = init_state(layout), make_train_step(layout)
    for _ in range(steps):
        state, metrics = step(state, tokens)
    return state, metrics


def relative_difference(a, b):
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.slow
def test_accumulated_micro_batches_equal_one_large_batch(change):
    parts, whole = without_dropout(change), without_dropout(change, micro_batches=1)
    accumulated, metrics = run(parts, batch(parts))
    at_once, expected = run(whole, batch(whole))  # the same rows
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    # Sums in another order, and Adam's first step divides by them: fp32 rounding, not less.
    assert relative_difference(accumulated.parameters, at_once.parameters) < 1e-5


@pytest.mark.slow
def test_chunks_of_a_single_stage_change_nothing(change):
    """Three layers in two chunks of two would leave a slot for a layer that does not exist."""
    model = {"n_layers": 3, "dropout": 0.0, "attention_dropout": 0.0}
    whole = change(model=model)
    chunks = change(model=model, mesh={"schedule": "interleaved", "chunks": 2})
    expected, metrics = run(whole, batch(whole), steps=2)
    state, found = run(chunks, batch(chunks), steps=2)
    assert found == metrics
    assert relative_difference(state.parameters, expected.parameters) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 2e-2), ("fp16", 3e-3)])
def test_narrow_formats_follow_fp32(change, name, tolerance):
    """One unit in the last place is 2^-8 in bf16 and 2^-11 in fp16; losses average over many."""
    wide, narrow = without_dropout(change), without_dropout(change, precision=name)
    tokens = batch(wide)
    expected, got = run(wide, tokens, steps=3)[1], run(narrow, tokens, steps=3)[1]
    assert float(got["loss"]) == pytest.approx(float(expected["loss"]), rel=tolerance)
    assert float(got["grad_norm"]) == pytest.approx(
        float(expected["grad_norm"]), rel=10 * tolerance
    )
    state, _ = run(narrow, tokens)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "lion"])
def test_an_overflow_skips_the_step_and_halves_the_scale(change, kind):
    run = change(optimizer={"kind": kind}, training={"precision": "fp16"})
    layout = make_layout(run)
    scale = precision.LossScale(jnp.float32(2.0**120), jnp.int32(0))
    state = dataclasses.replace(init_state(layout), loss_scale=scale)
    before = jax.device_get((state.parameters, state.moments))
    state, metrics = make_train_step(layout)(state, batch(layout.config))
    assert float(metrics["skipped"]) == 1
    assert float(state.loss_scale.scale) == 2.0**119
    assert int(state.step) == 1
    after = state.parameters, state.moments
    assert jax.tree.all(jax.tree.map(np.array_equal, after, before))


def test_the_scale_doubles_after_enough_good_steps(monkeypatch):
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    scale = precision.LossScale(jnp.float32(1024), jnp.int32(0))
    seen = []
    for finite in (True, True, True, True, False, True):
        scale = scale.adjust(jnp.asarray(finite))
        seen.append((float(scale.scale), int(scale.good_steps)))
    assert seen == [(1024, 1), (1024, 2), (2048, 0), (2048, 1), (1024, 0), (1024, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("ends", "same"), [(0, True), (1, False)])
def test_resetting_changes_the_loss_exactly_when_a_document_ends(change, ends, same):
    """One sample with and without an end in its middle; what a reset does is the model's test."""

    def write(tokens):
        tokens[tokens == END] = END + 1
        tokens[..., 8 : 8 + ends] = END

    losses = []
    for reset in (False, True):
        config = change(
            model={"dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.5},
            data={"reset_at_document": reset},
            training={"batch_size": 1, "micro_batches": 1},
        )
        losses.append(float(run(config, batch(config, change=write))[1]["loss"]))
    assert (losses[0] == losses[1]) == same


@pytest.mark.slow
def test_the_loss_is_the_weighted_mean_of_those_of_the_positions_where_0_teaches_nothing(change):
    config = without_dropout(change)
    layout, tokens = make_layout(config), np.array(batch(config).tokens)
    random = np.random.default_rng(1)
    weights = random.choice(np.float32([0, 0.5, 1]), (*tokens.shape[:2], tokens.shape[2] - 1))
    other = np.array(tokens)
    # Only the last token of a row is read by nobody.
    weights[..., -1] = 0
    other[..., -1] = (other[..., -1] + 1) % config.model.vocab_size
    step = make_train_step(layout, keep_losses=True)
    one, metrics = step(init_state(layout), Batch(tokens, weights))
    losses = np.asarray(metrics["losses"], np.float64)
    expected = (weights * losses).sum() / weights.sum()
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-6)
    two, metrics = step(init_state(layout), Batch(other, weights))
    assert (np.asarray(metrics["losses"])[..., -1] != losses[..., -1]).all()
    for x, y in zip(jax.tree.leaves(one.parameters), jax.tree.leaves(two.parameters), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_equal_weights_are_as_good_as_none_and_none_above_0_leave_no_gradient(change):
    config = without_dropout(change)
    layout, plain = make_layout(config), batch(config)
    step = make_train_step(layout)
    _, expected = step(init_state(layout), plain)
    halves = jnp.full_like(plain.tokens[..., 1:], 0.5, jnp.float32)
    _, found = step(init_state(layout), Batch(plain.tokens, halves))
    for name in ("loss", "grad_norm"):
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5)
    _, found = step(init_state(layout), Batch(plain.tokens, 0 * halves))
    assert [float(found[name]) for name in ("loss", "grad_norm", "skipped")] == [0, 0, 0]


@pytest.mark.slow
def test_the_state_is_updated_in_place(change):
    config = without_dropout(change, micro_batches=1)
    layout, tokens = make_layout(config), batch(config)
    state = init_state(layout)
    compiled = make_train_step(layout).lower(state, tokens).compile(AS_IN_A_RUN)
    memory = compiled.memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes >= 0.99 * size


@pytest.mark.slow
def test_recomputation_saves_memory_and_does_not_change_the_result(change):
    results, needed = {}, {}
    for remat in ("none", "products", "block"):
        # Longer and of more layers, for what layers keep to outweigh the rest.
        model = {"n_layers": 4, "sequence_length": 64}
        config = change(model=model, training={"remat": remat, "micro_batches": 1})
        layout, tokens = make_layout(config), batch(config)
        state = init_state(layout)
        step = make_train_step(layout).lower(state, tokens).compile(AS_IN_A_RUN)
        needed[remat] = step.memory_analysis().temp_size_in_bytes
        results[remat], _ = step(state, tokens)
    for remat in ("products", "block"):
        difference = relative_difference(results[remat].parameters, results["none"].parameters)
        assert difference < 1e-6
    assert needed["block"] < needed["products"] < needed["none"]
    # Of each layer `none` keeps at least the results of its four products, `block` its input only.
    stream = 4 * 4 * 64 * 16  # bytes of [4, 64, 16] in fp32
    assert needed["none"] - needed["block"] > 3 * 5 * stream


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_spike_changes_no_weight_and_is_no_overflow(change, precision):
    config = without_dropout(change, spike_deviations=6.0, precision=precision)
    layout = make_layout(config)
    state, step = init_state(layout), make_train_step(layout)

    def about(loss):
        around = jnp.linspace(0.99, 1.01, WINDOW)
        return RecentSteps(loss * around, 100 * around, jnp.int32(WINDOW))

    state = dataclasses.replace(state, recent=about(1.0))  # that of fresh weights is about 7
    before = jax.tree.map(np.array, state)
    state, metrics = step(state, batch(config))
    assert (float(metrics["spike"]), float(metrics["skipped"])) == (1.0, 1.0)
    same = dataclasses.replace(before, step=before.step + 1)
    if precision == "fp16":
        good = dataclasses.replace(same.loss_scale, good_steps=same.loss_scale.good_steps + 1)
        same = dataclasses.replace(same, loss_scale=good)
    jax.tree.map(np.testing.assert_array_equal, state, same)
    # What stays where it jumped to is a spike no more, once it is what is usual.
    state = dataclasses.replace(state, recent=about(7.0))
    state, metrics = step(state, batch(config))
    assert (float(metrics["spike"]), float(metrics["skipped"])) == (0.0, 0.0)
    assert int(state.recent.count) == WINDOW + 1
