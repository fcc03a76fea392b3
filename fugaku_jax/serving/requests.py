"""What can be asked for: the fields of OpenAI's requests that are obeyed, or change nothing.

A field that OpenAI knows but this server cannot obey is taken where it says nothing (`n`-best of
the same number, penalties of 0, no tools), so that what clients send by themselves is no error; any
other field is one. Nothing is converted: "1" is no number.

Source: https://platform.openai.com/docs/api-reference/completions, and …/chat
"""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypeAliasType

from fugaku_jax.inference.continuation import Options

MOST_CHOICES = 8
"""Most choices for a prompt."""
MOST_PROMPTS = 16
"""Most prompts of a request."""
MOST_STOPS = 16
MOST_TOP = 5
"""Most alternatives of a token that are told with their probabilities."""

TokenId = TypeAliasType("TokenId", Annotated[int, Field(ge=0, lt=2**31)])
"""A token's number. The server's description says how many there are."""
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Nothing = Annotated[float, Field(ge=0, le=0)]


def _whole(value: Any) -> Any:
    """Return 1 for 1.0, also in lists: to JSON they are the same number."""
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Strict(BaseModel):
    """Fields that must be known and of their very types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _take_whole(cls, value: Any) -> Any:
        return _whole(value)


class StreamOptions(Strict):
    """What else a stream tells."""

    include_usage: bool | None = None
    """Whether the last piece counts tokens."""
    include_obfuscation: bool | None = None
    """Changes nothing."""


class Wanted(Strict):
    """What both kinds of requests may say."""

    model: Annotated[str, Field(max_length=1000)] | None = None
    """As `/v1/models` names it."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """1 if not given; 0 takes the most probable token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Not OpenAI's: choose among so many of the most probable tokens; 0 for all."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Not OpenAI's: above 1, tokens that the text has already are less probable."""
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    """The text ends before any of these."""
    seed: Annotated[int, Field(gt=-(2**53), lt=2**53)] | None = None
    """Of the random choice, modulo 2**32; choice number i takes this plus i. Drawn if not given."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Choices for each prompt."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = None
    """Changes nothing, as the next four."""
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None

    presence_penalty: Nothing | None = None
    """Only 0, as the next."""
    frequency_penalty: Nothing | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    """Only empty."""

    def options(self, max_tokens: int, choice: int, also_stop: tuple[str, ...] = ()) -> Options:
        """Return how a choice is continued.

        Args:
            max_tokens: at most, at least 1.
            choice: its number.
            also_stop: strings that it ends before in any case.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        seed = secrets.randbits(32) if self.seed is None else self.seed + choice
        return Options(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            repetition_penalty=self.repetition_penalty or 1.0,
            stop=(*stop, *also_stop),
            seed=seed % 2**32,
        )

    @property
    def wants_usage(self) -> bool:
        """Whether a stream's last piece counts tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(Wanted):
    """What `/v1/completions` takes."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]],
            Field(min_length=1, max_length=MOST_PROMPTS),
        ]
    )
    """One text or several, or their tokens; nothing is put before tokens."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """16 if not given. What the model has no room for is not generated."""
    echo: bool | None = None
    """Whether the text begins with the prompt."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """Tell tokens with the logarithms of their probabilities, and so many of the most probable."""
    best_of: Literal[1] | None = None
    """Only 1: all that are made are told."""
    suffix: Literal[""] | None = None
    """Only empty."""


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """What one of them says."""

    role: Literal["system", "developer", "user", "assistant"]
    """A developer is the system."""
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None
    """Changes nothing."""
    refusal: None = None
    """Only null, as the next five: what `openai` writes of a message of ours that is sent back."""
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        """What is said."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ResponseFormat(Strict):
    """The form of an answer."""

    type: Literal["text"]


class ChatRequest(Wanted):
    """What `/v1/chat/completions` takes."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """As many as the server and the model have room for if not given."""
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """OpenAI's newer name of it, which counts if both are there."""
    logprobs: bool | None = None
    """Tell tokens with the logarithms of their probabilities."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """And so many of the most probable."""
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    """Only empty."""
    tool_choice: Literal["none", "auto"] | None = None
    """Changes nothing, as the next."""
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    """Only false: nothing is kept."""
