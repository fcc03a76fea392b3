"""An oracle of generation without a cache: for each token the whole text goes through the model."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.inference.packing import choice_of
from fugaku_jax.inference.sampler import sample
from fugaku_jax.models.gpt import GPT


class WholeText:
    """A model that is run over all of a text, padding included, in fp32."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        graph, self._weights = nnx.split(model)
        known = jnp.int32(tokenizer.vocab_size)
        self._tokenizer, self._positions = tokenizer, model.config.sequence_length

        @jax.jit
        def following(weights, tokens, length, number, choice):
            ours = nnx.merge(graph, weights)
            logits = ours.logits(ours(tokens))[:, length[0] - 1]
            return sample(logits, logits.shape[1], tokens, length, number, known, choice)

        self._following = following

    def __call__(self, prompt: list[int], options: Options) -> Continuation:
        """Continue a prompt to its end."""
        row, choice = Continuation(self._tokenizer, prompt, options), choice_of([options], 1)
        while not row.finish:
            whole, padded = prompt + row.tokens, np.zeros((1, self._positions), np.int32)
            padded[0, : len(whole)] = whole
            length, number = (jnp.array([len(x)], jnp.int32) for x in (whole, row.tokens))
            found = self._following(self._weights, padded, length, number, choice)
            row.add(*(x.tolist() for x in found))
            if len(whole) + 1 == self._positions and not row.finish:
                row.add([], [])
        return row
