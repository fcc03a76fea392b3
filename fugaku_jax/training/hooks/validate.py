"""Validation on the way: how well the model predicts held-out text."""

from fugaku_jax.data.store import Store
from fugaku_jax.evaluation.perplexity import Perplexity
from fugaku_jax.layout.layout import Layout
from fugaku_jax.training.hooks.hook import CompletedStep, Hook, is_time
from fugaku_jax.training.whole_model import whole_model


class Validate(Hook):
    """Adds the scores of all domains to a step's figures, every `training.validate_every` steps."""

    time_is_for = "validation"

    def __init__(self, layout: Layout, store: Store) -> None:
        self._layout, self._training = layout, layout.config.training
        self._perplexity = Perplexity(
            store, layout.config, max_tokens_per_domain=self._training.validation_tokens
        )

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time."""
        return is_time(step, self._training.validate_every, self._training.steps)

    def after_step(self, done: CompletedStep) -> None:
        """Score the model, if it is time."""
        if done.state is None or not self.needs_state(done.number):
            return
        model = whole_model(self._layout, done.state.parameters, done.state.frozen)
        scores = self._perplexity(model)
        if not scores.total.tokens:
            return
        done.figures["validation_loss"] = scores.total.nats_per_token
        if scores.total.bytes:  # those of answers are not counted
            done.figures["validation_bits_per_byte"] = scores.total.bits_per_byte
        for domain, score in scores.domains.items():
            done.figures[f"validation/{domain}/loss"] = score.nats_per_token
            if score.bytes:
                done.figures[f"validation/{domain}/bits_per_byte"] = score.bits_per_byte
