"""`/v1/completions`: texts that go on from prompts."""

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fugaku_jax.inference.continuation import Finish
from fugaku_jax.inference.scheduler import Alternatives
from fugaku_jax.inference.stream import Detokenizer
from fugaku_jax.serving.engine_thread import Ask, Heard
from fugaku_jax.serving.requests import CompletionRequest
from fugaku_jax.serving.responses import (
    Completion,
    CompletionChoice,
    FinishReason,
    LogProbs,
    usage,
)
from fugaku_jax.serving.service import Service, finite

_MAX_TOKENS = 16  # OpenAI's, where a request does not say
REASONS: dict[Finish, FinishReason] = {"end": "stop", "stop": "stop", "length": "length"}
"""OpenAI's words for why a text ended."""


@dataclass(frozen=True)
class _Prompt:
    tokens: list[int]
    text: str
    unwritten: int
    """How many of its first tokens were put before the text and are not told."""


class Completing:
    """A request for completions that is being answered."""

    def __init__(
        self, service: Service, request: CompletionRequest, prompts: Sequence[_Prompt]
    ) -> None:
        self._service, self._request, self._prompts = service, request, prompts
        self._choices = request.n or 1
        self._told = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.name,
        }

    @classmethod
    async def begin(cls, service: Service, request: CompletionRequest) -> "Completing":
        """Read the prompts. Raises InputError if one is no text."""
        given, prompts = request.prompt, []
        several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        for each in several:
            if isinstance(each, str):
                tokens = await service.tokens(each)
                before = service.thread.engine.first_token is not None or not each
                prompts.append(_Prompt(tokens, each, int(before)))
            else:
                text = service.thread.engine.tokenizer.decode(each)
                prompts.append(_Prompt(each, text, 0))
        return cls(service, request, prompts)

    async def whole(self) -> Completion:
        """Return all choices when all have ended. Raises as `events`."""
        choices: dict[int, CompletionChoice] = {}
        counted = None
        async with AsyncExitStack() as stack:
            async for event in await self.events(stack):
                for new in event.choices:
                    if new.index in choices:
                        _extend(choices[new.index], new)
                    else:
                        choices[new.index] = new
                counted = event.usage
        whole = [choices[index] for index in sorted(choices)]
        return Completion(**self._told, choices=whole, usage=counted)

    async def events(self, stack: AsyncExitStack) -> AsyncIterator[Completion]:
        """Return what gives the pieces of all choices, and last how many tokens they have.

        Args:
            stack: what ends the work when it is closed.

        Raises:
            InputError: a prompt leaves no room, or has tokens that the tokenizer does not know.
            Refusal: too many texts are continued already, or the engine has failed.
        """
        echoes = [await self._echo(prompt) for prompt in self._prompts]
        pieces = await stack.enter_async_context(self._service.answers(self._asks()))
        return self._events(echoes, pieces)

    def _asks(self) -> list[Ask]:
        request, wanted = self._request, self._request.max_tokens
        most = min(_MAX_TOKENS if wanted is None else wanted, self._service.limits.max_tokens)
        choices = range(self._choices) if most else ()
        return [
            (prompt.tokens, request.options(most, choice), request.logprobs or 0)
            for prompt in self._prompts
            for choice in choices
        ]

    async def _events(
        self, echoes: Sequence[CompletionChoice], pieces: AsyncIterator[Heard]
    ) -> AsyncIterator[Completion]:
        detokenizers = []
        for number, prompt in enumerate(self._prompts):
            for choice in range(self._choices):
                index = number * self._choices + choice
                detokenizers.append(self._service.detokenizer(prompt.tokens))
                ends = None if self._request.max_tokens != 0 else "length"
                told = {"index": index, "finish_reason": ends}
                first = echoes[number].model_copy(update=told, deep=True)
                if first.text or ends:
                    yield Completion(**self._told, choices=[first])
        begins = [len(echo.text) for echo in echoes for _ in range(self._choices)]
        made = 0
        async for number, new in pieces:
            made += len(new.tokens)
            found = None
            if self._request.logprobs is not None:
                values = new.log_probs, new.alternatives
                found = self._told_of(new.tokens, *values, detokenizers[number], begins[number])
            begins[number] += len(new.text)
            choice = CompletionChoice(
                index=number,
                text=new.text,
                logprobs=found,
                finish_reason=REASONS[new.finish] if new.finish else None,
            )
            yield Completion(**self._told, choices=[choice])
        read = sum(len(prompt.tokens) for prompt in self._prompts)
        if self._request.wants_usage or not self._request.stream:
            yield Completion(**self._told, choices=[], usage=usage(read, made))

    async def _echo(self, prompt: _Prompt) -> CompletionChoice:
        """Return the prompt as a choice's first piece; empty if it is not wanted."""
        wanted = self._request
        choice = CompletionChoice(index=0, text="", finish_reason=None)
        if not wanted.echo:
            return choice
        choice.text = prompt.text
        if wanted.logprobs is not None:
            values, most = await self._service.thread.score(prompt.tokens, wanted.logprobs)
            skip, text = prompt.unwritten, self._service.detokenizer()
            choice.logprobs = self._told_of(
                prompt.tokens[skip:], [None, *values][skip:], [None, *most][skip:], text, 0
            )
        return choice

    def _told_of(
        self,
        tokens: Sequence[int],
        values: Sequence[float | None],
        alternatives: Sequence[Alternatives | None],
        text: Detokenizer,
        begin: int,
    ) -> LogProbs:
        written = [text.add([token]) for token in tokens]
        finites = [None if value is None else finite(value) for value in values]
        top = None
        if self._request.logprobs:
            top = [
                most and dict(self._service.most_probable(most, token, text))
                for token, text, most in zip(tokens, written, alternatives, strict=True)
            ]
        return LogProbs(
            tokens=written,
            token_logprobs=finites,
            top_logprobs=top,
            text_offset=list(_offsets(written, begin)),
        )


def _offsets(written: Sequence[str], begin: int) -> Iterator[int]:
    for each in written:
        yield begin
        begin += len(each)


def _extend(choice: CompletionChoice, new: CompletionChoice) -> None:
    choice.text += new.text
    choice.finish_reason = new.finish_reason
    kept, more = choice.logprobs, new.logprobs
    if kept and more:
        kept.tokens += more.tokens
        kept.token_logprobs += more.token_logprobs
        kept.text_offset += more.text_offset
        if kept.top_logprobs is not None and more.top_logprobs is not None:
            kept.top_logprobs += more.top_logprobs
