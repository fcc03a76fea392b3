"""Validation on the way: how well the model predicts held-out text."""

from fugaku_jax.config import Config
from fugaku_jax.data.store import Store
from fugaku_jax.evaluation.perplexity import Perplexity
from fugaku_jax.layout.rules import get_rules, use_rules
from fugaku_jax.training.hooks.hook import CompletedStep, Hook, is_time
from fugaku_jax.training.state import whole_model


class Validate(Hook):
    """Adds the scores of all domains to a step's figures, every `training.validate_every` steps."""

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._perplexity = Perplexity(
            store, config, max_tokens_per_domain=config.training.validation_tokens
        )

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time."""
        training = self._config.training
        return is_time(step, training.validate_every, training.steps)

    def after_step(self, done: CompletedStep) -> None:
        """Score the model, if it is time."""
        if done.state is None or not self.needs_state(done.number):
            return
        model = whole_model(self._config, done.state.parameters)
        with use_rules(get_rules().without_stages()):
            scores = self._perplexity(model)
        done.figures["validation_loss"] = scores.total.nats_per_token
        done.figures["validation_bits_per_byte"] = scores.total.bits_per_byte
        for domain, score in scores.domains.items():
            done.figures[f"validation/{domain}/loss"] = score.nats_per_token
            done.figures[f"validation/{domain}/bits_per_byte"] = score.bits_per_byte
