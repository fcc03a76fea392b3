"""Reads dialogues from JSONL, JSONL.gz, JSONL.zst and Parquet, in the shapes that people share.

A list of messages (`messages`, `conversations`, `utterances`), each with a speaker (`role`, `from`,
`name`) and what is said (`content`, `value`, `text`); Alpaca's `instruction`, `input`, `output`; or
a `prompt` or `question` with its `completion`, `response` or `answer`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from fugaku_jax.data.corpus import BadLine
from fugaku_jax.data.lines import parse_line, read_lines
from fugaku_jax.errors import InputError

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")

Item = TypeVar("Item")
Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "agent": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_LISTS = ("messages", "conversations", "conversation", "utterances")
_SPEAKERS = ("role", "from", "name")
_SAYINGS = ("content", "value", "text")
_PAIRS = {
    "instruction": ("output", "response"),
    "prompt": ("completion", "response"),
    "question": ("answer",),
}


@dataclass(frozen=True)
class Message:
    """What one of them says."""

    role: Role
    content: str
    input: str = ""
    """What an instruction is to be carried out on, as Alpaca has it apart."""


@dataclass(frozen=True)
class Dialogue:
    """Messages in their order, at least one of them an assistant's."""

    id: str
    messages: tuple[Message, ...]
    source: str | None = None
    licence: str | None = None


def read_dialogues(path: Path) -> Iterator[Dialogue | BadLine]:
    """The dialogues of a file in order, and a BadLine for each line that is none.

    Raises:
        InputError: as `read_items`.
    """
    return read_items(path, _dialogue)


def read_items(path: Path, parse: Callable[[Any, str], Item]) -> Iterator[Item | BadLine]:
    """What the lines or rows of a file hold, in order, and a BadLine for each that holds none.

    Args:
        path: the file.
        parse: makes it of a line's fields and of a name for it; a ValueError says what is wrong.

    Raises:
        InputError: the file cannot be read, or its ending says no known format.
    """
    if not path.is_file():
        raise InputError(f"input {path}: there is no such file.")
    if not path.name.lower().endswith(ENDINGS):
        raise InputError(f"input {path}: the ending must be one of {' '.join(ENDINGS)}.")
    number = 0
    try:
        for number, fields in _rows(path):
            try:
                row = fields if isinstance(fields, Mapping) else parse_line(fields)
                if not isinstance(row, Mapping):
                    raise ValueError("must be a JSON object")
                yield parse(row, f"{path.name}:{number}")
            except ValueError as error:
                yield BadLine(f"{path}:{number}: {error}.")
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or "it is cut short"
        sentence = f"{path}: cannot be read behind line {number}: {reason}."
        raise InputError(f"input {sentence}") from error


def _rows(path: Path) -> Iterator[tuple[int, bytes | Mapping[str, Any]]]:
    """The lines or rows of a file that are not empty, with their numbers from 1."""
    if path.name.lower().endswith(".parquet"):
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        return
    with path.open("rb") as file:
        for number, line in enumerate(read_lines(file, path.name), 1):
            if line.strip():
                yield number, line


def _dialogue(fields: Mapping[str, Any], name: str) -> Dialogue:
    return make_dialogue(fields, name, _messages(fields))


def make_dialogue(fields: Mapping[str, Any], name: str, messages: tuple[Message, ...]) -> Dialogue:
    """Return a dialogue of these messages, and of what else a line says of it.

    Args:
        fields: of the line.
        name: for it, if it has no `id`.
        messages: of the dialogue.

    Raises:
        ValueError: nobody answers, or a message is empty.
    """
    if not any(each.role == "assistant" for each in messages):
        raise ValueError("nobody answers: there is no message of an assistant")
    for place, each in enumerate(messages, 1):
        if not each.content.strip():
            what = "answer" if each.role == "assistant" else f"message of the {each.role}"
            raise ValueError(f"message {place} is an empty {what}")
        each.content.encode()  # a lone surrogate, which JSON can write, raises here
    identity = fields.get("id", name)
    licence = fields.get("licence", fields.get("license"))
    source = fields.get("source")
    return Dialogue(
        str(identity),
        messages,
        source if isinstance(source, str) else None,
        licence if isinstance(licence, str) else None,
    )


def _messages(fields: Mapping[str, Any]) -> tuple[Message, ...]:
    for key in _LISTS:
        if isinstance(fields.get(key), list):
            return tuple(map(message_of, fields[key]))
    for asked, answers in _PAIRS.items():
        for answered in answers:
            if asked in fields and answered in fields:
                question = _string(asked, fields[asked])
                given = _string("input", fields.get("input") or "")
                answer = _string(answered, fields[answered])
                return Message("user", question, given), Message("assistant", answer)
    pairs = ", ".join(f"`{asked}` and `{answers[0]}`" for asked, answers in _PAIRS.items())
    there = ", ".join(map(str, fields)) or "none"
    raise ValueError(
        f"holds no dialogue: its fields are {there}; known are a list `{_LISTS[0]}`, or {pairs}"
    )


def message_of(fields: Any) -> Message:
    """Return a message of a list.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(fields, Mapping):
        raise ValueError("a message must be an object")
    speaker = next((fields[key] for key in _SPEAKERS if fields.get(key) is not None), None)
    content = next((fields[key] for key in _SAYINGS if fields.get(key) is not None), None)
    if not isinstance(speaker, str) or speaker.lower() not in _ROLES:
        raise ValueError(f"the role {speaker!r:.100} is unknown; known are {', '.join(_ROLES)}")
    return Message(_ROLES[speaker.lower()], _string("content", content))


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string, got {type(value).__name__}")
    return value
