"""DPO's step against its formula, a sequence at a time; and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from first_steps import lay_out
from flax import nnx
from lora_by_hand import with_products
from meshes import make_config

from fugaku_jax.data.batch import Batch
from fugaku_jax.errors import InputError
from fugaku_jax.training.state import init_state
from fugaku_jax.training.step import make_train_step

PLAIN = {"dropout": 0.0, "attention_dropout": 0.0, "n_layers": 2, "init_std": 0.2}
ANSWERS = {"learn": "answers", "reset_at_document": True}
BETA = 0.3
# Of each row the pairs: tokens of the prompt, of the chosen and of the rejected answer.
ROWS = [[(2, 1, 3), (1, 2, 1)], [(3, 4, 2)], [(1, 1, 1), (1, 1, 1), (1, 2, 1)], [(2, 5, 4)]]


def config_of(**tuning):
    """A run of two micro-batches of two rows that does not clip."""
    training = {"micro_batches": 2, "batch_size": 4}
    tuned = {"method": "dpo", "beta": BETA} | tuning
    return make_config({}, PLAIN, training, ANSWERS, {"clip": 0.0}, tuned)


def drawn(length: int):
    """Rows of packed pairs, as a batch without reference, and each pair as two sequences."""
    random = np.random.default_rng(0)
    tokens = np.zeros((len(ROWS), length + 1), np.int32)
    weights = np.zeros((len(ROWS), length), np.float32)
    segments = np.zeros((len(ROWS), length), np.int32)
    pairs = []
    for row, of_row in enumerate(ROWS):
        at = number = 0
        for prompt, *answers in of_row:
            asked = random.integers(1, 250, prompt)
            both = []
            for answer in answers:
                said = np.concatenate([asked, random.integers(1, 250, answer)])
                tokens[row, at : at + len(said)] = said
                weights[row, at + prompt - 1 : at + len(said) - 1] = 1
                segments[row, at : at + len(said)] = number
                both.append((row, at, prompt, said))
                at, number = at + len(said), number + 1
            pairs.append(both)
        segments[row, at:] = number
    return tokens, weights, segments, pairs


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "lora-dpo"])
def test_loss_gradient_accuracy_and_margin_are_those_of_the_formula(method):
    config = config_of(method=method, rank=4)
    layout = lay_out(config)
    length = config.model.sequence_length
    tokens, weights, segments, pairs = drawn(length)
    reference = np.random.default_rng(1).normal(5, 1, (len(ROWS), length)).astype(np.float32)
    with layout.active():
        state = init_state(layout)
        if layout.is_lora:  # adapters as after some steps: neither A nor B is zero
            draw = np.random.default_rng(2).normal
            learned = jax.tree.map(lambda x: draw(0, 0.1, x.shape), state.parameters)
            state = replace(state, parameters=jax.tree.map(jnp.float32, learned))
        parameters, frozen = jax.tree.map(jnp.copy, (state.parameters, state.frozen))
        cut = [x.reshape(2, 2, -1) for x in (tokens, weights, segments, reference)]
        new, metrics = make_train_step(layout)(state, Batch(*map(jnp.asarray, cut)))

        def log_probability(model, said, prompt):
            # trl's `logps`: of a sequence that is alone, the sum over its completion.
            all_of = jax.nn.log_softmax(model.logits(model(jnp.asarray(said[None, :-1])))[0])
            each = jnp.take_along_axis(all_of, jnp.asarray(said[1:, None]), -1)
            return each[prompt - 1 :].sum()

        @jax.jit
        def by_hand(parameters):
            # trl's `sigmoid` loss and its `rewards/…` figures.
            weights = parameters
            if layout.is_lora:
                weights = with_products(config, frozen, parameters)
            model = nnx.merge(layout.structure, weights)
            rewards = []
            for both in pairs:
                for row, at, prompt, said in both:
                    span = slice(at + prompt - 1, at + len(said) - 1)
                    held_to = -reference[row, span].sum()
                    rewards.append(BETA * (log_probability(model, said, prompt) - held_to))
            chosen, rejected = jnp.stack(rewards[::2]), jnp.stack(rewards[1::2])
            margins = chosen - rejected
            accuracy = (chosen > rejected).mean()
            return -jax.nn.log_sigmoid(margins).mean(), (accuracy, margins.mean())

        (loss, (accuracy, margin)), gradients = jax.value_and_grad(by_hand, has_aux=True)(
            parameters
        )
    assert 0 < float(accuracy) < 1
    for name, right in (("loss", loss), ("accuracy", accuracy), ("margin", margin)):
        assert float(metrics[name]) == pytest.approx(float(right), rel=1e-5), name
    found = jax.tree.map(lambda mean: mean / (1 - config.optimizer.beta1), new.moments.mean)
    whole = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(gradients)))
    for (path, mine), right in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(gradients), strict=True
    ):
        # A bias of keys has none but rounding, so it is held to all.
        assert np.linalg.norm(mine - right) <= 1e-5 * whole, path


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"data": {"learn": "all"}}, r"data\.learn is 'all', but it must be answers with"),
        ({"mesh": {"context": 2}}, r"mesh\.context is 2, but it must be 1 with"),
        ({"data": {"prompt_weight": 0.1}}, r"data\.prompt_weight is 0\.1, but it must be 0 with"),
        ({"training": {"document_losses": True}}, r"document_losses is True"),
        ({"training": {"z_loss": 0.1}}, r"training\.z_loss is 0\.1, but it must be 0 with"),
        ({"tuning": {"beta": 0.0}}, r"tuning\.beta is 0\.0"),
    ],
)
def test_what_does_not_go_with_pairs_is_a_sentence(sections, says):
    config = config_of()
    ((name, fields),) = sections.items()
    with pytest.raises(InputError, match=says):
        replace(config, **{name: replace(getattr(config, name), **fields)})
