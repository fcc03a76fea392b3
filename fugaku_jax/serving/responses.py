"""What is answered, in OpenAI's shapes.

Source: https://platform.openai.com/docs/api-reference/completions/object, …/chat/object
"""

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens that were counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(prompt: int, completion: int) -> Usage:
    """Return the counts of tokens that were read and made."""
    return Usage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )


class LogProbs(BaseModel):
    """Tokens of a text, with logarithms of probabilities; None for a text's first."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]
    """Where each begins, in characters of the text."""


class CompletionChoice(BaseModel):
    """A continuation, or a piece of one."""

    index: int
    text: str
    logprobs: LogProbs | None = None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """What `/v1/completions` answers, and each piece of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogProb(BaseModel):
    """A token that could have been."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogProb(TopLogProb):
    """A token, and what could have been in its place."""

    top_logprobs: list[TopLogProb]


class ChatLogProbs(BaseModel):
    """The tokens of an answer."""

    content: list[TokenLogProb]


class AnswerMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """An answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogProbs | None = None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """What `/v1/chat/completions` answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """What of an answer is new."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of an answer."""

    index: int
    delta: Delta
    logprobs: ChatLogProbs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    """A piece of a stream of answers."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["fugaku_jax"] = "fugaku_jax"
    max_model_len: int
    """Tokens that a prompt and what follows it may have together."""


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Whether requests are taken."""

    status: Literal["ok"] = "ok"
