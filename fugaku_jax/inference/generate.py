"""Text that follows prompts, several at a time.

The rows of a batch are prompts of any length, padded on the right. A row's tokens depend on its own
prompt, options and seed alone. Several tokens are made in one program that runs until all rows have
ended; then the host looks at their text.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Continuation, Options, prompt_tokens
from fugaku_jax.inference.decoding import Pieces, Request, advance, start
from fugaku_jax.inference.sampler import Choice
from fugaku_jax.inference.weights import Weights, laid_out
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.models.gpt import GPT

AT_ONCE = 32
"""Tokens that are made before the host looks at them, where nobody reads along."""


class Generator:
    """A model ready to generate: its weights are copied, cast and laid out once."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        first_token: int | None,
        dtype: DTypeLike = jnp.bfloat16,
        weights: Weights = None,
    ) -> None:
        """Lay the weights out.

        Args:
            model: the model; it is not needed any longer.
            tokenizer: its tokenizer.
            first_token: what stands before every prompt, as before the texts of training; None
                for nothing.
            dtype: type of weights, cache and arithmetic.
            weights: type of what products read, if it is not `dtype`.
        """
        self.config, self.tokenizer, self.dtype = model.config, tokenizer, jnp.dtype(dtype)
        self.first_token = first_token
        self._rules, self._mesh = model.rules, mesh_of(nnx.state(model))
        with active(self._mesh):
            self._structure, self._weights = nnx.split(laid_out(model, dtype, weights))

    def __call__(
        self, prompts: Sequence[str], options: Options | Sequence[Options]
    ) -> list[Continuation]:
        """Continue prompts to their ends; options are for all, or one for each.

        Raises:
            InputError: a prompt leaves no room among the model's positions.
        """
        given = [options] * len(prompts) if isinstance(options, Options) else options
        rows = [self.begin(*pair) for pair in zip(prompts, given, strict=True)]
        for _ in self.run(rows):
            pass
        return rows

    def begin(self, prompt: str, options: Options) -> Continuation:
        """Return a text to continue.

        Raises:
            InputError: the prompt leaves no room among the model's positions.
        """
        tokens = self.tokens(prompt)
        positions = self.config.sequence_length
        if len(tokens) >= positions:
            raise InputError(
                f"The prompt {prompt[:20]!r}… has {len(tokens)} tokens, but the model has "
                f"{positions} positions in all; shorten it."
            )
        return Continuation(self.tokenizer, tokens, options)

    def tokens(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, as `prompt_tokens`."""
        return prompt_tokens(self.tokenizer, self.first_token, prompt)

    def run(self, rows: Sequence[Continuation], steps: int = AT_ONCE) -> Iterator[None]:
        """Continue texts to their ends, at most `steps` tokens from one yield to the next."""
        if not rows:
            return
        tokens, request = self._request(rows)
        positions = int(np.max(request.limits))
        positions = min(self.config.sequence_length, -(-positions // 64) * 64)
        ends: Any = np.array(self.tokenizer.ends, np.int32)
        count: Any = np.int32(self.tokenizer.vocab_size)
        pieces = Pieces(ends, count)
        static = self._structure, self.dtype, positions
        with active(self._mesh):
            cache, state = start(*static, self._weights, tokens, request, pieces)
        while True:
            seen = jax.tree.map(np.asarray, state)
            for row, each in enumerate(rows):
                place = slice(len(each.prompt) + len(each.tokens), seen.lengths[row])
                each.add(seen.tokens[row, place].tolist(), seen.log_probs[row, place].tolist())
            yield
            if all(each.finish for each in rows):
                return
            done = np.array(seen.done)
            done[: len(rows)] |= [bool(each.finish) for each in rows]
            state = state._replace(done=done)
            with active(self._mesh):
                cache, state = advance(
                    self._structure, self._weights, cache, state, request, pieces, steps
                )

    def _request(self, rows: Sequence[Continuation]) -> tuple[np.ndarray, Request]:
        """Return the prompts as an array, and everything else that is asked for.

        Rows are added until the devices divide them, and positions up to a power of two, so that
        few programs are compiled; what is there is not looked at.
        """
        devices = self._rules.parts("batch")
        count = -(-len(rows) // devices) * devices
        longest = self.config.sequence_length
        width = max(16, 1 << (max(len(row.prompt) for row in rows) - 1).bit_length())
        tokens = np.zeros((count, min(width, longest)), np.int32)
        for row, each in zip(tokens, rows, strict=False):
            row[: len(each.prompt)] = each.prompt
        options = [row.options for row in rows] + [Options(max_tokens=1)] * (count - len(rows))
        prompts: Any = np.ones(count, np.int32)
        prompts[: len(rows)] = [len(row.prompt) for row in rows]
        limits: Any = np.minimum(prompts + [each.max_tokens for each in options], longest)

        def column(name: str, dtype: type) -> Any:
            return np.array([getattr(each, name) for each in options], dtype)

        choice = Choice(
            temperature=column("temperature", np.float32),
            top_k=column("top_k", np.int32),
            top_p=column("top_p", np.float32),
            repetition_penalty=column("repetition_penalty", np.float32),
            seed=column("seed", np.uint32),
        )
        return tokens, Request(prompts, limits.astype(np.int32), choice)


def continue_prompts(
    generator: Generator, prompts: Sequence[str], new_tokens: int, seed: int
) -> list[str]:
    """Return what follows each prompt, to show what a model under training has learned.

    A prompt longer than the model's positions keeps its last tokens.
    """
    longest = max(1, generator.config.sequence_length - 1)
    rows = []
    for number, prompt in enumerate(prompts):
        tokens = generator.tokens(prompt)[-longest:]
        options = Options(new_tokens, seed=seed + number)
        rows.append(Continuation(generator.tokenizer, tokens, options))
    for _ in generator.run(rows):
        pass
    return [row.text for row in rows]
