"""Samples on the way: what the model writes after a few prompts."""

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.inference.continuation import Options, cache_positions, prompt_tokens
from fugaku_jax.inference.engine import Engine
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.segments import token_before_text
from fugaku_jax.training.hooks.hook import CompletedStep, Hook, is_time
from fugaku_jax.training.whole_model import whole_model


class Sample(Hook):
    """Adds samples to a step, every `training.sample_every` steps."""

    time_is_for = "samples"

    def __init__(self, layout: Layout, tokenizer: Tokenizer) -> None:
        self._layout, self._tokenizer = layout, tokenizer
        training, longest = layout.config.training, layout.config.model.sequence_length
        self._writes = bool(training.sample_tokens and training.prompts) and longest > 1

    def needs_state(self, step: int) -> bool:
        """Tell whether it is time."""
        training = self._layout.config.training
        return self._writes and is_time(step, training.sample_every, training.steps)

    def after_step(self, done: CompletedStep) -> None:
        """Let the model write, if it is time."""
        if done.state is None or not self.needs_state(done.number):
            return
        training, tokenizer = self._layout.config.training, self._tokenizer
        model = whole_model(self._layout, done.state.parameters, done.state.frozen)
        first_token = token_before_text(self._layout.config.data, tokenizer.end_of_document)
        longest, new = self._layout.config.model.sequence_length, training.sample_tokens
        prompts = [
            prompt_tokens(tokenizer, first_token, prompt)[1 - longest :]
            for prompt in training.prompts
        ]
        positions = cache_positions(prompts, new, longest)
        given = model, tokenizer, first_token
        engine = Engine(*given, slots=len(prompts), positions=positions)
        asked = [(each, Options(new, seed=done.number + n)) for n, each in enumerate(prompts)]
        texts = (row.text for row in engine.answers(asked))
        done.samples += zip(training.prompts, texts, strict=True)
