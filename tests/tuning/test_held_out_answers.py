"""Which share of a model's answers end: of a model that always does, and of one that never does."""

import jax
import jax.numpy as jnp
import pytest

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import train
from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.held_out_answers import answer_held_out
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.models.layout import make_layout
from fugaku_jax.training.state import abstract_parameters
from fugaku_jax.training.whole_model import whole_model
from fugaku_jax.tuning.build import build_dialogues
from fugaku_jax.tuning.chat_template import ChatTemplate

T = 160
FOUR = Options(max_tokens=4, temperature=0)


@pytest.fixture(scope="module")
def make_store(tmp_path_factory, tokenizer, dialogues_file):
    def make(validation: float) -> Store:
        out = str(tmp_path_factory.mktemp("store") / "out")
        build_dialogues(out, [dialogues_file], tokenizer, ChatTemplate(), T, validation)
        return Store.open(out)

    return make


def saying(token: int, store: Store, tokenizer, positions: int | None = None) -> Engine:
    """A model that says one token for ever: nothing but its row of the table is not zero."""
    config = Config(
        model=ModelConfig(
            vocab_size=store.vocab_size, n_layers=1, d_model=16, n_heads=2, sequence_length=T
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=1, batch_size=1),
        data=DataConfig(store=store.url, learn="answers", reset_at_document=True),
    )
    layout = make_layout(config)
    weights = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract_parameters(layout))
    weights["tokens"]["table"] = weights["tokens"]["table"].at[token].set(1.0)
    weights["norm"]["bias"] = jnp.ones_like(weights["norm"]["bias"])
    model = whole_model(layout, weights)
    return Engine(model, tokenizer, None, jnp.float32, positions=positions)


def test_the_share_is_one_if_a_model_always_ends_and_zero_if_it_never_does(make_store, tokenizer):
    store = make_store(0.2)
    held_out = store.sets[0].validation.documents
    end = tokenizer.end_of_document
    always = answer_held_out(saying(end, store, tokenizer), store, FOUR)
    assert (always.asked, always.ended, always.tokens) == (held_out, held_out, held_out)
    never = answer_held_out(saying(end + 1, store, tokenizer), store, FOUR, 3)
    assert (never.asked, never.ended, never.tokens) == (3, 0, 12)
    assert (always.share_ended, never.share_ended) == (1.0, 0.0)
    no_room = answer_held_out(saying(end, store, tokenizer, 16), store, FOUR)
    assert (no_room.asked, no_room.ended, no_room.tokens) == (held_out, 0, 0)


def test_what_cannot_be_asked_is_a_sentence(make_store, tokenizer):
    nothing = make_store(0)
    with pytest.raises(InputError, match="has no held-out dialogues; hold some out"):
        answer_held_out(saying(2, nothing, tokenizer), nothing, FOUR)
    other = train(["ほかの言葉です。" * 9], 283)
    with pytest.raises(InputError, match="by another tokenizer than the model's"):
        answer_held_out(saying(2, nothing, other), nothing, FOUR)
