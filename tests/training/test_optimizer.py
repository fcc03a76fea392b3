"""Optimizers, held to optax's own, which is given each layer's matrices one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fugaku_jax.data.batch import Batch
from fugaku_jax.errors import InputError
from fugaku_jax.models.layout import make_layout
from fugaku_jax.planning.mesh_plan import plan_run
from fugaku_jax.training.adamw import decays
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.learning_rate import make_learning_rate
from fugaku_jax.training.optax_kinds import scale_by_rate_of_step
from fugaku_jax.training.optimizer import make_optimizer
from fugaku_jax.training.state import init_state
from fugaku_jax.training.step import make_train_step

UPDATES = 3
KINDS = ["adamw", "lion", "muon", "adafactor", "sgd"]
FACTORED = optax.chain(optax.adafactor(min_dim_size_to_factor=8), scale_by_rate_of_step())


def decaying(tree):
    return jax.tree.map_with_path(lambda path, _: decays(path), tree)


def optax_alone(kind, rate):
    """The optimizer as optax has it, with the fields that a configuration has by default."""
    decay = {"weight_decay": 0.1, "mask": decaying}
    if kind == "adamw":
        return optax.adamw(rate, 0.9, 0.95, 1e-8, **decay)
    if kind == "lion":
        return optax.lion(rate, 0.9, 0.95, **decay)
    if kind == "muon":  # of plain matrices; vectors and tables by Nesterov's Adam
        return optax.partition(
            {
                "matrix": optax.contrib.muon(rate, beta=0.9, weight_decay=0.1, consistent_rms=0.2),
                "other": optax.adamw(rate, 0.9, 0.95, 1e-8, nesterov=True, **decay),
            },
            lambda tree: jax.tree.map_with_path(
                lambda path, _: "matrix" if path[-1].key == "kernel" else "other", tree
            ),
        )
    directions = {
        "sgd": [optax.trace(0.9)],
        "adafactor": [
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ],
    }
    add = optax.add_decayed_weights(0.1, decaying)
    return optax.chain(*directions[kind], add, optax.scale_by_learning_rate(rate))


def layers_of(kind, tree):
    """Cut a model into its layers and the rest; with muon into matrices as one writes them."""
    tree, layers = jax.device_get(tree), []
    for layer in range(2):
        parts = jax.tree.map(functools.partial(np.take, indices=layer, axis=0), tree["blocks"])
        if kind == "muon":
            qkv, out = parts.pop("qkv")["kernel"], parts["attention_output"]
            for i, name in enumerate("qkv"):
                parts[name] = {"kernel": qkv[:, i].reshape(len(qkv), -1)}
            out["kernel"] = out["kernel"].reshape(-1, len(out["bias"]))
        layers.append(parts)
    return [*layers, {name: part for name, part in tree.items() if name != "blocks"}]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_that_of_optax_for_each_matrix_alone(change, kind):
    config = change(optimizer={"kind": kind})
    layout, rate = make_layout(config), make_learning_rate(config)
    state, optimizer = init_state(layout), make_optimizer(layout)
    gradients = jax.jit(
        lambda tree: jax.tree.map(
            lambda p: jax.random.normal(jax.random.key(p.size), p.shape), tree
        )
    )(state.parameters)
    reference = optax_alone(kind, rate)

    @jax.jit
    def ours(parameters, memory, step):
        updates, memory = optimizer.update(gradients, memory, parameters, learning_rate=rate(step))
        return optax.apply_updates(parameters, updates), memory

    @jax.jit
    def its(tree, memory, gradients):
        updates, memory = reference.update(gradients, memory, tree)
        return optax.apply_updates(tree, updates), memory

    parameters, memory = state.parameters, state.moments
    for step in range(UPDATES):
        parameters, memory = ours(parameters, memory, jnp.int32(step))
    # Roundings of fp32; those of muon go through five products of matrices.
    tolerance = 1e-4 if kind == "muon" else 1e-5
    cut = (layers_of(kind, tree) for tree in (state.parameters, gradients, parameters))
    for began, gradient, found in zip(*cut, strict=True):
        expected, memory = began, reference.init(began)
        for _ in range(UPDATES):
            expected, memory = its(expected, memory, gradient)
        for start, one, other in zip(*map(jax.tree.leaves, (began, expected, found)), strict=True):
            learned = np.linalg.norm(one - start)
            assert learned > 0
            assert np.linalg.norm(other - one) <= tolerance * learned


def test_biases_and_norms_do_not_decay(config):
    decaying = {
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(make_layout(config).shapes)
        if decays(path)
    }
    assert decaying == {
        *("tokens/table", "positions/table", "blocks/qkv/kernel"),
        *("blocks/attention_output/kernel", "blocks/up/kernel", "blocks/down/kernel"),
    }


@pytest.mark.slow
def test_an_optimizer_that_a_recipe_builds_goes_on_bit_for_bit_and_no_other_does(change, tmp_path):
    layout = make_layout(change(optimizer={"kind": "recipe"}))
    optimizer = make_optimizer(layout, FACTORED)
    step, state = make_train_step(layout, optimizer=optimizer), init_state(layout, optimizer)
    batch = Batch(np.random.default_rng(0).integers(0, 1200, (2, 2, 17), np.int32))
    state, _ = step(state, batch)
    with RunCheckpoints(tmp_path, layout.config.checkpoint) as checkpoints:
        checkpoints.save(1, layout, state, {})
    with RunCheckpoints(tmp_path) as checkpoints:
        again = checkpoints.restore(layout, optimizer)
        other = make_optimizer(layout, optax.chain(optax.sgd(1.0), scale_by_rate_of_step()))
        with pytest.raises(InputError, match="1 holds what another optimizer remembers"):
            checkpoints.restore(layout, other)
        with pytest.raises(InputError, match="is 'recipe', but no transformation was handed over"):
            checkpoints.restore(layout)
        weights = checkpoints.restore_parameters(layout)  # which no optimizer is needed for
        assert jax.tree.all(jax.tree.map(np.array_equal, weights, state.parameters))
    for one, two in zip(step(state, batch), step(again, batch), strict=True):
        assert jax.tree.all(jax.tree.map(np.array_equal, one, two))


def test_what_is_no_transformation_or_cannot_be_saved_is_refused(change):
    layout = make_layout(change(optimizer={"kind": "recipe"}))
    with pytest.raises(InputError, match=r"returns 0\.1, but it must return an optax\.Gradient"):
        make_optimizer(layout, 0.1)  # pyrefly: ignore[bad-argument-type]
    with pytest.raises(InputError, match=r"keeps key<fry> in its state, at .*rng_key, which no"):
        make_optimizer(layout, optax.add_noise(0.1, 0.5, 0))
    with pytest.raises(InputError, match="kind is 'lion', but it must be 'recipe'"):
        make_optimizer(make_layout(change(optimizer={"kind": "lion"})), FACTORED)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["replicated", "zero1", "fsdp"])
def test_a_plan_knows_what_each_kind_remembers(change, weights):
    mesh = {"data": 2, "weights": weights}
    sizes = {
        kind: plan_run(change(optimizer={"kind": kind}, mesh=mesh)).optimizer_bytes
        for kind in ("adamw", "lion", "muon")
    }
    counters = 200
    assert sizes["lion"] == pytest.approx(sizes["adamw"] / 2, abs=counters)
    assert sizes["lion"] < sizes["muon"] < sizes["adamw"]
