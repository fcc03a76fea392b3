"""Reads pairs of answers of which one was preferred, in the shapes that `trl` has them.

`prompt`, `chosen` and `rejected`, each a string or a list of messages; or `chosen` and `rejected`
alone, two dialogues that begin alike.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fugaku_jax.data.corpus import BadLine
from fugaku_jax.tuning.dialogues import (
    Dialogue,
    Message,
    Role,
    make_dialogue,
    message_of,
    read_items,
)


@dataclass(frozen=True)
class Preference:
    """Two dialogues with the same beginning."""

    chosen: Dialogue
    rejected: Dialogue
    prompt: int
    """Messages of the beginning, of which nothing is learned."""


def read_preferences(path: Path) -> Iterator[Preference | BadLine]:
    """The pairs of a file in order, and a BadLine for each line that is none.

    Raises:
        InputError: as `read_items`.
    """
    return read_items(path, _preference)


def _preference(fields: Mapping[str, Any], name: str) -> Preference:
    for key in ("chosen", "rejected"):
        if fields.get(key) is None:
            there = ", ".join(map(str, fields)) or "none"
            raise ValueError(f"holds no pair: there is no `{key}`; its fields are {there}")
    chosen, rejected = (_said(fields, key, "assistant") for key in ("chosen", "rejected"))
    if fields.get("prompt") is not None:
        prompt = _said(fields, "prompt", "user")
        chosen, rejected = prompt + chosen, prompt + rejected
    else:
        alike = [a == b for a, b in zip(chosen, rejected, strict=False)]
        prompt = chosen[: [*alike, False].index(False)]
    if not prompt:
        raise ValueError("holds no pair: there is no `prompt`, and nothing that both begin with")
    if chosen == rejected:
        raise ValueError("`chosen` and `rejected` are the same")
    identity = str(fields.get("id", name))

    def dialogue(key: str, messages: tuple[Message, ...]) -> Dialogue:
        if not any(each.role == "assistant" for each in messages[len(prompt) :]):
            raise ValueError(f"nobody answers in `{key}`")
        return make_dialogue({**fields, "id": f"{identity}/{key}"}, name, messages)

    return Preference(dialogue("chosen", chosen), dialogue("rejected", rejected), len(prompt))


def _said(fields: Mapping[str, Any], key: str, role: Role) -> tuple[Message, ...]:
    value = fields[key]
    if isinstance(value, str):
        return (Message(role, value),)
    if not isinstance(value, list):
        raise ValueError(f"`{key}` must be a string or a list, got {type(value).__name__}")
    return tuple(map(message_of, value))
