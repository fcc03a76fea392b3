"""Text that follows prompts, several at a time.

The rows of a batch are prompts of any length, padded on the right. A row's tokens depend on its own
prompt, options and seed alone. Several tokens are made in one program that runs until all rows have
ended; then the host looks at their text.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec, reshard
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.inference.cache import Cache, decode, empty_cache, prefill
from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.inference.sampler import Choice, sample
from fugaku_jax.inference.weights import laid_out
from fugaku_jax.kernels import native
from fugaku_jax.layout.mesh import active, mesh_of
from fugaku_jax.layout.rules import Rules
from fugaku_jax.models.gpt import GPT

AT_ONCE = 32
"""Tokens that are made before the host looks at them, where nobody reads along."""


class Progress(NamedTuple):
    """The rows so far."""

    tokens: Int[Array, "B S"]
    """Each row's prompt and what was generated."""
    log_probs: Float[Array, "B S"]
    """Of the generated tokens, where these are."""
    lengths: Int[Array, " B"]
    """Tokens of each row."""
    done: Bool[Array, " B"]
    """Whether it has ended."""


class Request(NamedTuple):
    """What is asked for, row by row."""

    prompts: Int[Array, " B"]
    """Tokens of the prompts."""
    limits: Int[Array, " B"]
    """Tokens that a row may have, prompt included."""
    choice: Choice


class Pieces(NamedTuple):
    """What the tokenizer says of tokens."""

    ends: Int[Array, " E"]
    """Which of them end a text."""
    count: Int[Array, ""]
    """How many it knows."""


class Generator:
    """A model ready to generate: its weights are copied, cast and laid out once."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        first_token: int | None,
        dtype: DTypeLike = jnp.bfloat16,
    ) -> None:
        """Lay the weights out.

        Args:
            model: the model; it is not needed any longer.
            tokenizer: its tokenizer.
            first_token: what stands before every prompt, as before the texts of training; None
                for nothing.
            dtype: type of weights, cache and arithmetic.
        """
        self.config, self.tokenizer, self.dtype = model.config, tokenizer, jnp.dtype(dtype)
        self.first_token = first_token
        self._rules, self._mesh = model.rules, mesh_of(nnx.state(model))
        with active(self._mesh):
            self._structure, self._weights = nnx.split(laid_out(model, dtype))

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
        """Return the tokens of a prompt with what stands before it; at least one."""
        before = [] if self.first_token is None else [self.first_token]
        # An end of document is what training foresaw the first token of every document from.
        return [*before, *self.tokenizer.encode(prompt)] or [self.tokenizer.end_of_document]

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
            cache, progress = _start(*static, self._weights, tokens, request, pieces)
        while True:
            seen = jax.tree.map(np.asarray, progress)
            for row, each in enumerate(rows):
                place = slice(len(each.prompt) + len(each.tokens), seen.lengths[row])
                each.add(seen.tokens[row, place].tolist(), seen.log_probs[row, place].tolist())
            yield
            if all(each.finish for each in rows):
                return
            done = np.array(seen.done)
            done[: len(rows)] |= [bool(each.finish) for each in rows]
            progress = progress._replace(done=done)
            with active(self._mesh):
                cache, progress = _advance(
                    self._structure, self._weights, cache, progress, request, pieces, steps
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


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _start(
    structure: nnx.GraphDef[GPT],
    dtype: jnp.dtype,
    positions: int,
    weights: PyTree[Array],
    prompts: Int[Array, "B T"],
    request: Request,
    pieces: Pieces,
) -> tuple[Cache, Progress]:
    """Run the prompts and choose each row's first token."""
    model = nnx.merge(structure, weights)
    request = _by_row(request, model.rules)
    prompts = reshard(prompts, model.rules.spec("batch", None))
    rows, width = prompts.shape
    cache = empty_cache(model, rows, max(positions, width), dtype)
    logits, cache = prefill(model, prompts, request.prompts, cache)
    tokens = jnp.pad(prompts, ((0, 0), (0, max(positions - width, 0))))
    nothing = jnp.zeros_like(tokens, jnp.float32)
    progress = Progress(tokens, nothing, request.prompts, jnp.zeros_like(request.prompts, bool))
    return cache, _everywhere(_choose(progress, logits, request, pieces, model.rules))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(
    structure: nnx.GraphDef[GPT],
    weights: PyTree[Array],
    cache: Cache,
    progress: Progress,
    request: Request,
    pieces: Pieces,
    steps: Int[Array, ""] | int,
) -> tuple[Cache, Progress]:
    """Choose so many tokens more, or as many as there are until all rows have ended."""
    model = nnx.merge(structure, weights)
    request, progress = (_by_row(each, model.rules) for each in (request, progress))

    def going_on(carry: tuple[Array, Cache, Progress]) -> Array:
        return (carry[0] < steps) & ~jnp.all(carry[2].done)

    def one(carry: tuple[Array, Cache, Progress]) -> tuple[Array, Cache, Progress]:
        step, cache, progress = carry
        positions = progress.lengths - 1
        newest = _at(progress.tokens, positions)
        tokens = jnp.where(newest, progress.tokens, 0).sum(1)
        logits, cache = decode(model, tokens, positions, cache)
        return step + 1, cache, _choose(progress, logits, request, pieces, model.rules)

    _, cache, progress = jax.lax.while_loop(going_on, one, (jnp.int32(0), cache, progress))
    return cache, _everywhere(progress)


def _choose(
    progress: Progress,
    logits: Float[Array, "B V"],
    request: Request,
    pieces: Pieces,
    rules: Rules,
) -> Progress:
    """Add a token to every row that has not ended."""
    choice, structure = jax.tree.flatten(request.choice)

    def local(
        logits: Array, tokens: Array, lengths: Array, number: Array, count: Array, *choice: Array
    ) -> tuple[Array, Array]:
        how = jax.tree.unflatten(structure, choice)
        return sample(logits, tokens, lengths, number, count, how)

    logits = reshard(logits, rules.spec("batch", None))
    tokens, lengths = progress.tokens, progress.lengths
    rows = rules.spec("batch")
    chosen, log_probs = native.on_each_device(
        local,
        (rows, rows),
        logits,
        tokens,
        lengths,
        lengths - request.prompts,
        pieces.count,
        *choice,
    )
    here = _at(tokens, lengths) & ~progress.done[:, None]
    lengths = lengths + ~progress.done
    is_end = jnp.any(chosen[:, None] == pieces.ends, axis=1)
    return Progress(
        tokens=jnp.where(here, chosen[:, None], tokens),
        log_probs=jnp.where(here, log_probs[:, None], progress.log_probs),
        lengths=lengths,
        done=progress.done | is_end | (lengths >= request.limits),
    )


def _at(tokens: Int[Array, "B S"], positions: Int[Array, " B"]) -> Bool[Array, "B S"]:
    return jnp.arange(tokens.shape[1]) == positions[:, None]


def _by_row(tree: Any, rules: Rules) -> Any:
    """Share rows among the devices as the model does."""
    return jax.tree.map(lambda x: reshard(x, rules.spec("batch", *[None] * (x.ndim - 1))), tree)


def _everywhere(progress: Progress) -> Progress:
    """Let every process read all of it."""
    return jax.tree.map(lambda x: reshard(x, PartitionSpec()), progress)
