"""`/v1/chat/completions`: what a model says next in a dialogue."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fugaku_jax.inference.scheduler import News
from fugaku_jax.inference.stream import Detokenizer
from fugaku_jax.serving.completions import REASONS
from fugaku_jax.serving.engine_thread import Heard
from fugaku_jax.serving.requests import ChatRequest
from fugaku_jax.serving.responses import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogProbs,
    ChunkChoice,
    Delta,
    FinishReason,
    TokenLogProb,
    TopLogProb,
    usage,
)
from fugaku_jax.serving.service import Service, finite
from fugaku_jax.tuning.dialogues import Dialogue, Message


class Chatting:
    """A request for answers that is being answered."""

    def __init__(self, service: Service, request: ChatRequest, prompt: Sequence[int]) -> None:
        """Args: what answers; what is asked for; the dialogue's tokens, as the model reads it."""
        self._service, self._request, self._prompt = service, request, prompt
        self._told = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.name,
        }

    @classmethod
    async def begin(cls, service: Service, request: ChatRequest) -> "Chatting":
        """Tell the dialogue as the model's template does. Raises InputError if that refuses it."""
        messages = tuple(
            Message("system" if each.role == "developer" else each.role, each.text)
            for each in request.messages
        )
        text = service.template.prompt(Dialogue("a dialogue", messages))
        return cls(service, request, await service.tokens(text))

    async def whole(self) -> ChatCompletion:
        """Return all answers when all have ended. Raises as `events`."""
        count = self._request.n or 1
        texts, tokens = [""] * count, [list[TokenLogProb]() for _ in range(count)]
        ends: list[FinishReason] = ["length"] * count
        counted = usage(len(self._prompt), 0)
        async with AsyncExitStack() as stack:
            async for event in await self.events(stack):
                for new in event.choices:
                    texts[new.index] += new.delta.content or ""
                    tokens[new.index] += new.logprobs.content if new.logprobs else []
                    ends[new.index] = new.finish_reason or ends[new.index]
                counted = event.usage or counted
        choices = [
            ChatChoice(
                index=index,
                message=AnswerMessage(content=texts[index]),
                logprobs=ChatLogProbs(content=tokens[index]) if self._request.logprobs else None,
                finish_reason=ends[index],
            )
            for index in range(count)
        ]
        return ChatCompletion(**self._told, choices=choices, usage=counted)

    async def events(self, stack: AsyncExitStack) -> AsyncIterator[ChatChunk]:
        """Return what gives the pieces of all answers, and last how many tokens they have.

        Args:
            stack: what ends the work when it is closed.

        Raises:
            InputError: the dialogue leaves no room.
            Refusal: too many texts are continued already, or the engine has failed.
        """
        request, limits = self._request, self._service.limits
        wanted = request.max_completion_tokens or request.max_tokens or limits.max_tokens
        next_turn = tuple(filter(None, [self._service.template.next_turn()]))
        top = (request.top_logprobs or 0) if request.logprobs else 0
        most = min(wanted, limits.max_tokens)
        asks = [
            (self._prompt, request.options(most, choice, next_turn), top)
            for choice in range(request.n or 1)
        ]
        return self._events(await stack.enter_async_context(self._service.answers(asks)))

    async def _events(self, pieces: AsyncIterator[Heard]) -> AsyncIterator[ChatChunk]:
        count = self._request.n or 1
        detokenizers = [self._service.detokenizer(self._prompt) for _ in range(count)]
        for index in range(count):
            yield self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
        made = 0
        async for index, new in pieces:
            made += len(new.tokens)
            yield self._chunk(
                ChunkChoice(
                    index=index,
                    delta=Delta(content=new.text),
                    logprobs=self._log_probs(new, detokenizers[index]),
                    finish_reason=REASONS[new.finish] if new.finish else None,
                )
            )
        if self._request.wants_usage or not self._request.stream:
            counted = usage(len(self._prompt), made)
            yield ChatChunk(**self._told, choices=[], usage=counted)

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(**self._told, choices=[choice])

    def _log_probs(self, new: News, text: Detokenizer) -> ChatLogProbs | None:
        if not self._request.logprobs:
            return None
        told = []
        for place, token in enumerate(new.tokens):
            written = text.add([token])
            most = new.alternatives[place] if new.alternatives else {}
            top = [
                TopLogProb(**_told(*each))
                for each in self._service.most_probable(most, token, written)
            ]
            chosen = _told(written, finite(new.log_probs[place]))
            told.append(TokenLogProb(**chosen, top_logprobs=top))
        return ChatLogProbs(content=told)


def _told(text: str, log_prob: float) -> dict[str, Any]:
    return {"token": text, "logprob": log_prob, "bytes": list(text.encode())}
