"""LoRA's step: its losses and gradients, what it holds, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from first_steps import lay_out
from flax import nnx
from lora_by_hand import with_products
from meshes import make_config

from fugaku_jax.config import Config, TuningConfig
from fugaku_jax.data.batch import Batch
from fugaku_jax.errors import InputError
from fugaku_jax.training.state import abstract_state, init_state
from fugaku_jax.training.step import make_train_step
from fugaku_jax.training.whole_model import whole_model

PLAIN = {"dropout": 0.0, "attention_dropout": 0.0, "n_layers": 2}
LLAMA = PLAIN | {"family": "llama", "n_kv_heads": 3, "d_ff": 48, "tied": False}
CASES = {
    "gpt2": (PLAIN, {}),
    "llama": (LLAMA, {"targets": ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")}),
}


def lora_config(model: dict, tuning: dict) -> Config:
    """A run of two micro-batches that does not clip."""
    training = {"micro_batches": 2, "batch_size": 4}
    tuned = {"method": "lora", "rank": 4, "alpha": 8.0} | tuning
    return make_config({}, model, training, optimizer={"clip": 0.0}, tuning=tuned)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_kernels_with_the_product_in_them(case):
    config = lora_config(*CASES[case])
    layout = lay_out(config)
    random = np.random.default_rng(0)
    with layout.active():
        state = init_state(layout)

        def drawn(x):
            return jnp.asarray(random.normal(0, 0.05, x.shape), jnp.float32)

        state = replace(state, parameters=jax.tree.map(drawn, state.parameters))
        weights, adapters = jax.tree.map(jnp.copy, (state.frozen, state.parameters))
        tokens = jnp.asarray(random.integers(0, 250, (2, 2, 17)), jnp.int32)
        new, metrics = make_train_step(layout)(state, Batch(tokens))

        @jax.jit
        def by_hand(adapters):
            model = nnx.merge(layout.structure, with_products(config, weights, adapters))
            rows = tokens.reshape(4, 17)
            said = jax.nn.log_softmax(model.logits(model(rows[:, :-1])))
            return -jnp.mean(jnp.take_along_axis(said, rows[:, 1:, None], -1))

        loss, gradients = jax.value_and_grad(by_hand)(adapters)
        assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)
        # After one step AdamW's mean is a tenth of the gradient (beta1 0.9, without clipping).
        found = jax.tree.map(lambda mean: mean / (1 - config.optimizer.beta1), new.moments.mean)
        for (path, mine), right in zip(
            jax.tree.leaves_with_path(found), jax.tree.leaves(gradients), strict=True
        ):
            assert np.linalg.norm(mine - right) <= 3e-6 * np.linalg.norm(right), path
        # What stays is what it was, bit by bit, and a model for use has the product in it.
        jax.tree.map(np.testing.assert_array_equal, new.frozen, weights)
        merged = whole_model(layout, adapters, weights)
        right = nnx.merge(layout.structure, with_products(config, weights, adapters))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
            *(nnx.to_pure_dict(nnx.state(each)) for each in (merged, right)),
        )


def bytes_of(tree) -> int:
    """What the arrays of a tree take."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.slow
def test_moments_and_gradients_take_less_than_a_twentieth_of_those_of_all_weights():
    model = PLAIN | {"d_model": 240, "vocab_size": 2000}
    full = make_config({}, model, {"batch_size": 2, "micro_batches": 1})
    small = replace(full, tuning=TuningConfig("lora", rank=4, targets=("c_attn", "c_fc")))
    held, compiled = {}, {}
    for name, config in (("full", full), ("lora", small)):
        layout = lay_out(config)
        state = abstract_state(layout)
        held[name] = bytes_of((state.moments, state.parameters))  # a gradient is as a parameter
        step = make_train_step(layout).lower(state, layout.batch).compile()
        compiled[name] = step.memory_analysis()
    assert held["lora"] < 0.05 * held["full"]
    # The weights are there once, and so little besides that it is no gradient of theirs: what a
    # step holds for a while, activations and one layer's gradient, is less than all weights take.
    weights = bytes_of(abstract_state(lay_out(full)).parameters)
    arguments = {name: x.argument_size_in_bytes for name, x in compiled.items()}
    assert arguments["lora"] < 1.05 * weights + 0.05 * held["full"]
    assert arguments["full"] > 3 * weights
    temporary = {name: x.temp_size_in_bytes for name, x in compiled.items()}
    assert temporary["full"] - temporary["lora"] > 0.5 * weights


@pytest.mark.parametrize(
    ("model", "tuning", "says"),
    [
        (PLAIN, {"targets": ("q_proj",)}, "tuning.targets is .* some of c_attn, c_proj, c_fc"),
        (PLAIN, {"targets": ("c_fc", "c_fc")}, "none is repeated"),
        (PLAIN, {"rank": 25}, "tuning.rank is 25, but it must be at most model.d_model, 24"),
        (PLAIN, {"rank": 0}, "tuning.rank is 0"),
        (PLAIN, {"alpha": 0.0}, "tuning.alpha is 0.0"),
        (PLAIN, {"method": "prefix"}, "tuning.method is 'prefix', but it must be full or lora"),
    ],
)
def test_a_wrong_value_is_a_sentence(model, tuning, says):
    with pytest.raises(InputError, match=says):
        lora_config(model, tuning)
