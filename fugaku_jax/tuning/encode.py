"""Dialogues as tokens, and which of them a model is to learn to say."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32

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


def encode_dialogue(
    dialogue: Dialogue,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    end_of_document: int,
    prompt: int = 0,
) -> EncodedDialogue:
    """Cut a dialogue into tokens, as a whole.

    A token is learned if it holds a byte of an answer, be it joined to what stands before. So is
    the end-of-document token, if the dialogue ends with an answer. Of the first messages, as many
    as `prompt` says, nothing is learned.

    Raises:
        InputError: as `ChatTemplate.tell`.
    """
    told = template.tell(dialogue)
    tokens, spans = tokenizer.encode_spans(told.text)
    learned = np.zeros(len(tokens) + 1, bool)
    before = sum(each.role == "assistant" for each in dialogue.messages[:prompt])
    for first, last in told.answers[before:]:
        begin = len(told.text[:first].encode())
        end = begin + len(told.text[first:last].encode())
        learned[:-1] |= (spans[:, 1] > begin) & (spans[:, 0] < end)
    learned[-1] = bool(told.answers) and told.text[told.answers[-1][1] :].strip() == ""
    ends = np.append(tokens, end_of_document).astype(np.int32)
    return EncodedDialogue(dialogue, told.text, ends, learned)
