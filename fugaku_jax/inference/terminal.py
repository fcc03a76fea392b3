"""Continuations on a terminal: as they come, whole, or token by token."""

import sys
from collections.abc import Sequence

from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.inference.stream import Detokenizer


def print_stream(engine: Engine, prompt: str, options: Options) -> None:
    """Print a prompt and its continuation, token by token as it comes.

    Raises:
        InputError: the prompt leaves no room among the model's positions.
    """
    engine.submit(engine.tokens(prompt), options)
    sys.stdout.write(prompt)
    while engine.busy or engine.queued:
        for news in engine.step(at_once=1):
            sys.stdout.write(news.text)
            sys.stdout.flush()
    print()


def print_texts(engine: Engine, prompts: Sequence[str], options: Options) -> None:
    """Print each prompt with its continuation, when all have ended; raises as `print_stream`."""
    for prompt, row in zip(prompts, _continued(engine, prompts, options), strict=True):
        print(prompt + row.text)


def print_tokens(engine: Engine, prompts: Sequence[str], options: Options) -> None:
    """Print each prompt, and below it the tokens that follow with the logarithms of their
    probabilities; raises as `print_stream`.
    """
    for prompt, row in zip(prompts, _continued(engine, prompts, options), strict=True):
        print(prompt)
        text = Detokenizer(engine.tokenizer, before=row.prompt)
        for token, value in zip(row.tokens, row.log_probs, strict=True):
            print(f"{value:9.4f} {token:7d} {text.add([token])!r}")


def _continued(engine: Engine, prompts: Sequence[str], options: Options) -> list[Continuation]:
    return list(engine.answers((engine.tokens(prompt), options) for prompt in prompts))
