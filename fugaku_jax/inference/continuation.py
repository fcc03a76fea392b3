"""One prompt's continuation: what is asked for, and the text, tokens and end that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fugaku_jax.data.marks import END_OF_DOCUMENT
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.inference.stream import Detokenizer, Until

Finish = Literal["end", "stop", "length"]
"""A token that ends texts, a stop string, or as many tokens as were wanted or fit the model."""


def prompt_tokens(tokenizer: Tokenizer, first_token: int | None, prompt: str) -> list[int]:
    """Return the tokens of a prompt with what stands before it; at least one.

    Args:
        tokenizer: of the model.
        first_token: what stands before every prompt, as before the texts of training; None for
            nothing.
        prompt: a text; `data.marks.END_OF_DOCUMENT` in it, as chat templates put it, is the token.
    """
    tokens, end = [] if first_token is None else [first_token], []
    for part in prompt.split(END_OF_DOCUMENT):
        tokens += [*end, *tokenizer.encode(part)]
        end = [tokenizer.end_of_document]
    # An end of document is what training foresaw the first token of every document from.
    return tokens or end


def cache_positions(prompts: Sequence[Sequence[int]], max_tokens: int, longest: int) -> int:
    """Return how many positions of a cache prompts need to go on side by side.

    Each row's are rounded up, so that few programs are compiled.

    Args:
        prompts: tokens of each; there is one at least.
        max_tokens: most tokens of a continuation.
        longest: most tokens of a prompt and its continuation together.
    """
    most = min(longest, max(map(len, prompts)) + max_tokens)
    return len(prompts) * -(-most // 64) * 64


@dataclass(frozen=True)
class Options:
    """How a prompt is continued."""

    max_tokens: int = 256
    """Most tokens that are generated."""
    temperature: float = 0.8
    """What logits are divided by; 0 takes the most probable token."""
    top_k: int = 0
    """Choose among so many of the most probable tokens; 0 for all."""
    top_p: float = 1.0
    """Choose among the fewest most probable tokens of this probability together."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the text has already are less probable (Keskar et al., 2019)."""
    stop: tuple[str, ...] = ()
    """The text ends before any of these."""
    seed: int = 0
    """Of the random choice."""

    def __post_init__(self) -> None:
        for name, good, allowed in (
            ("max_tokens", 0 < self.max_tokens < 2**31, "greater than 0 and below 2147483648"),
            ("temperature", 0 <= self.temperature < float("inf"), "at least 0"),
            ("top_k", 0 <= self.top_k < 2**31, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "greater than 0 and at most 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "greater than 0"),
            ("stop", all(self.stop), "strings that are not empty"),
            ("seed", 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        ):
            if not good:
                value = getattr(self, name)
                raise InputError(f"{name} is {value!r}, but it must be {allowed}.")


class Continuation:
    """A text that grows token by token."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], options: Options) -> None:
        """Args: what reads tokens; the prompt's tokens, at least one; what is asked for."""
        self.prompt, self.options = list(prompt), options
        self.text = ""
        """What is surely the text so far: whole characters, before any stop string."""
        self.tokens: list[int] = []
        """All that were generated, one that ended the text included."""
        self.log_probs: list[float] = []
        """The logarithm of each one's probability, as the model has it."""
        self.finish: Finish | None = None
        """Why the text has ended; None while it goes on."""
        self._ends = frozenset(tokenizer.ends)
        self._detokenizer = Detokenizer(tokenizer, before=prompt)
        self._until = Until(options.stop)

    def add(self, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        """Take what follows, up to the text's end; nothing means that the model is full."""
        for token, log_prob in zip(tokens, log_probs, strict=True):
            if self.finish:
                return
            self.tokens.append(token)
            self.log_probs.append(log_prob)
            if token in self._ends:
                self._close("end")
                return
            self.text += self._until.add(self._detokenizer.add([token]))
            if self._until.found:
                self.finish = "stop"
            elif len(self.tokens) == self.options.max_tokens:
                self._close("length")
        if not tokens and not self.finish:
            self._close("length")

    def _close(self, finish: Finish) -> None:
        self.text += self._until.add(self._detokenizer.end())
        self.text += self._until.end()
        self.finish = "stop" if self._until.found else finish
