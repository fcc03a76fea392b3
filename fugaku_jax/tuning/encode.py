"""Dialogues as tokens, and which of them a model is to learn to say."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64

from fugaku_jax.data.marks import END_OF_DOCUMENT
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.tuning.chat_template import ChatTemplate
from fugaku_jax.tuning.dialogues import Dialogue


@dataclass(frozen=True)
class EncodedDialogue:
    """A dialogue as a model reads it."""

    dialogue: Dialogue
    text: str
    tokens: Int32[np.ndarray, " T"]
    """Of the text, and the end-of-document token."""
    learned: Bool[np.ndarray, " T"]
    """Whether the model is to learn to say each."""
    without_end: int
    """Answers whose end is not learned, as others follow and the template puts nothing between."""


def encode_dialogue(
    dialogue: Dialogue,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    end_of_document: int,
    prompt: int = 0,
) -> EncodedDialogue:
    """Cut a dialogue into tokens, as a whole but for end-of-document tokens within.

    A token is learned if it holds a byte of an answer, be it joined to what stands before. So is
    an end-of-document token directly behind an answer, and that which closes the dialogue if it
    ends with an answer. Of the first messages, as many as `prompt` says, nothing is learned.

    Raises:
        InputError: as `ChatTemplate.tell`.
    """
    told = template.tell(dialogue)
    text = told.text
    if text.rstrip().endswith(END_OF_DOCUMENT):  # the template closes the dialogue itself
        text = text.rstrip().removesuffix(END_OF_DOCUMENT)
    tokens, spans = _encoded(text, tokenizer, end_of_document)
    learned, without_end = np.zeros(len(tokens), bool), 0
    before = sum(each.role == "assistant" for each in dialogue.messages[:prompt])
    said = [each.content for each in dialogue.messages if each.role == "assistant"]
    for place, (first, last) in enumerate(told.answers):
        if place < before:
            continue
        begin = len(told.text[:first].encode())
        end = begin + len(told.text[first:last].encode())
        learned |= (spans[:, 1] > begin) & (spans[:, 0] < end)
        behind = told.text[last:].lstrip()
        if not behind:
            learned[-1] = True
        elif behind.startswith(END_OF_DOCUMENT):
            learned |= spans[:, 0] == len(told.text.removesuffix(behind).encode())
        elif told.text[first:last].strip() == said[place].strip():
            without_end += 1
    whole = text.replace(END_OF_DOCUMENT, "")
    return EncodedDialogue(dialogue, whole, tokens, learned, without_end)


def _encoded(
    text: str, tokenizer: Tokenizer, end: int
) -> tuple[Int32[np.ndarray, " T"], Int64[np.ndarray, "T 2"]]:
    """Return the tokens of a text and one that ends it, and the bytes that each stands for."""
    size = len(END_OF_DOCUMENT.encode())
    tokens, spans, begin = [], [], 0
    for part in text.split(END_OF_DOCUMENT):
        ids, places = tokenizer.encode_spans(part)
        last = begin + len(part.encode())
        tokens += [ids, [end]]
        spans += [places + begin, [(last, last + size)]]
        begin = last + size
    return np.concatenate(tokens, dtype=np.int32), np.concatenate(spans, dtype=np.int64)
