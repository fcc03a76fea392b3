"""Continuations on a terminal: as they come, whole, or token by token."""

import sys
from collections.abc import Sequence

from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.generate import Generator
from fugaku_jax.inference.stream import Detokenizer


def print_stream(generator: Generator, prompt: str, options: Options) -> None:
    """Print a prompt and its continuation, as it comes.

    Raises:
        InputError: the prompt leaves no room among the model's positions.
    """
    row = generator.begin(prompt, options)
    sys.stdout.write(prompt)
    shown = 0
    for _ in generator.run([row], steps=1):
        sys.stdout.write(row.text[shown:])
        sys.stdout.flush()
        shown = len(row.text)
    print()


def print_texts(generator: Generator, prompts: Sequence[str], options: Options) -> None:
    """Print each prompt with its continuation, when all have ended; raises as `print_stream`."""
    for prompt, row in zip(prompts, generator(prompts, options), strict=True):
        print(prompt + row.text)


def print_tokens(generator: Generator, prompts: Sequence[str], options: Options) -> None:
    """Print each prompt, and below it the tokens that follow with the logarithms of their
    probabilities; raises as `print_stream`.
    """
    for prompt, row in zip(prompts, generator(prompts, options), strict=True):
        print(prompt)
        text = Detokenizer(generator.tokenizer, before=row.prompt)
        for token, value in zip(row.tokens, row.log_probs, strict=True):
            print(f"{value:9.4f} {token:7d} {text.add([token])!r}")
