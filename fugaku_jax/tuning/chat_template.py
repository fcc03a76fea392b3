"""How a dialogue is told to a model: a chat template, and where in its text the answers are.

Templates are Jinja, as Hugging Face's `chat_template` (https://huggingface.co/docs/transformers/
chat_templating), in Jinja's sandbox: they reach nothing but the messages. Where a template marks
answers by `{% generation %}`, that is heeded. Where it does not, it is asked twice for each answer,
with the turn and with the frame that it puts before one: what the first has behind the second is
what a model says, the end of its turn included. `eos_token` is the end-of-document token: in a text
the character `data.marks.END_OF_DOCUMENT` stands for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fugaku_jax.data.marks import END_OF_DOCUMENT
from fugaku_jax.errors import InputError
from fugaku_jax.tuning.dialogues import Dialogue, Message

FUGAKU = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' -%}{{ messages[0]['content'] }}
{%- set messages = messages[1:] -%}
{%- else -%}以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。
{%- endif -%}
{%- for message in messages -%}
{{ '\\n\\n### 指示:\\n' if message['role'] == 'user' else '\\n\\n### 応答:\\n' }}
{{- message['content'] }}{{ eos_token if message['role'] == 'assistant' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '\\n\\n### 応答:\\n' }}{%- endif -%}
"""
"""The prompt that Fugaku-LLM-13B-instruct was tuned with; `transformers` puts nothing before it.

It has no word for further turns: here every answer ends with the end-of-document token."""
_WITH_INPUT = (
    "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。"
    "要求を適切に満たす応答を書きなさい。"
)
_BEGIN, _END = "\ufdd0", "\ufdd1"  # characters that Unicode keeps for a program's own use
_MARKS = (_BEGIN, _END, END_OF_DOCUMENT)


@dataclass(frozen=True)
class Told:
    """A dialogue as a model reads it."""

    text: str
    answers: tuple[tuple[int, int], ...]
    """Where in the text what the assistant says begins and ends, in characters."""


class ChatTemplate:
    """A chat template."""

    def __init__(self, source: str = FUGAKU, name: str = "the chat template") -> None:
        """Compile it.

        Args:
            source: the template; Fugaku-LLM's if not given.
            name: what sentences call it.

        Raises:
            InputError: it is no template.
        """
        self._source, self._name = source, name
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        try:
            self._template = environment.from_string(source, {"raise_exception": _refuse})
        except jinja2.TemplateError as error:
            raise InputError(f"{name} is no Jinja template: {error}.") from error

    def tell(self, dialogue: Dialogue) -> Told:
        """Return a dialogue's text, and where its answers are.

        Raises:
            InputError: the template refuses the dialogue, or does not say where an answer begins.
        """
        messages = self._messages(dialogue)
        text = self._render(messages)
        if _BEGIN in text:
            return self._marked(text)
        answers = []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:place], add_generation_prompt=True)
            until = self._render(messages[: place + 1])
            if before == self._render(messages[:place]) or not until.startswith(before):
                raise InputError(
                    f"{self._name} does not mark where an answer begins: it puts nothing before "
                    "one (add_generation_prompt), or something else than where it is asked for one."
                )
            if not text.startswith(until):
                raise InputError(
                    f"{self._name} tells a turn otherwise once others follow it, so what is an "
                    "answer cannot be told; mark it by {% generation %} there."
                )
            answers.append((len(before), len(until)))
        return Told(text, tuple(answers))

    def prompt(self, dialogue: Dialogue) -> str:
        """Return the text that an assistant goes on from, as `prompt_tokens` takes it.

        Raises:
            InputError: the template refuses the dialogue.
        """
        text = self._render(self._messages(dialogue), add_generation_prompt=True)
        return text.replace(_BEGIN, "").replace(_END, "")

    def prompt_after(self, said: Sequence[str]) -> str:
        """Return the text that an assistant goes on from after what was said, by the user first.

        Raises:
            InputError: as `prompt`.
        """
        messages = (
            Message("assistant" if place % 2 else "user", text) for place, text in enumerate(said)
        )
        return self.prompt(Dialogue("a dialogue", tuple(messages)))

    def next_turn(self) -> str:
        """Return what stands between an answer and what the user says next, without space around.

        A model that writes it goes on for the user; "" if the template puts nothing there.

        Raises:
            InputError: the template refuses a dialogue.
        """
        asked, answer, next_asked = (chr(0xFDD2 + place) for place in range(3))
        text = self.prompt_after((asked, answer, next_asked))
        between = text.partition(answer)[2].partition(next_asked)[0]
        return between.replace(END_OF_DOCUMENT, "").strip()

    def _messages(self, dialogue: Dialogue) -> list[dict[str, str]]:
        messages: list[dict[str, str]] = []
        for each in dialogue.messages:
            content = each.content
            if any(mark in content for mark in _MARKS):
                raise InputError(
                    f"{dialogue.id}: holds U+FDD0, U+FDD1 or U+FDD5, which are no characters."
                )
            if each.input and self._source == FUGAKU:
                if not messages:
                    messages.append({"role": "system", "content": _WITH_INPUT})
                content = f"{content}\n\n### 入力:\n{each.input}"
            elif each.input:
                content = f"{content}\n\n{each.input}"
            messages.append({"role": each.role, "content": content})
        return messages

    def _render(self, messages: list[dict[str, str]], **options: Any) -> str:
        options = {"add_generation_prompt": False} | options
        try:
            tokens = {"bos_token": "", "eos_token": END_OF_DOCUMENT}
            return self._template.render(messages=messages, **tokens, **options)
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{self._name} refuses a dialogue: {error}.") from error

    def _marked(self, text: str) -> Told:
        parts, answers, length = [], [], 0
        first, *others = text.split(_BEGIN)
        parts.append(first)
        length = len(first)
        for other in others:
            answer, _, rest = other.partition(_END)
            answers.append((length, length + len(answer)))
            parts += [answer, rest]
            length += len(answer) + len(rest)
        return Told("".join(parts), tuple(answers))


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: what stands between is an answer."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{_BEGIN}{caller()}{_END}"


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
