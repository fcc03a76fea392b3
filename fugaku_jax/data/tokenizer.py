"""SentencePiece unigram tokenizers: loading, training, encoding. Data only, nothing is executed."""

import functools
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Int32, Int64, Integer

from fugaku_jax.data.exact_scores import LARGEST, cuts, only_here, with_exact_scores
from fugaku_jax.errors import InputError

# The trainer adds up per-thread sums: with a fixed number the model is the same everywhere.
_TRAINING_THREADS = 4
_LONGEST_LINE = 1 << 16  # bytes; the trainer would leave longer lines out
_PART = 1 << 14  # characters of a line that are always few enough bytes
# The rest of a line; else as much as ends before a space or behind a sign; else as much as can be.
_PARTS = re.compile(rf"(?s).{{1,{_PART}}}(?:\Z|(?=\s)|(?<=[^\w\s]))|.{{{_PART}}}")
_LONGEST_SPACE_RUN = 16
_ENDS = ("<EOD>", "<EOD|LLM-jp>", "<|endoftext|>")
"""Pieces that end documents in some tokenizers, beside the end-of-sentence piece."""


class Tokenizer:
    """A SentencePiece model: text to token ids and back. Safe to use from several threads.

    What stands before a word does not change how it is cut, as it may with SentencePiece alone
    (`exact_scores`), whose segmentation this otherwise is.
    """

    def __init__(self, model_bytes: bytes, name: str = "tokenizer") -> None:
        """Args: the serialised model, and the name that errors call it by. Raises InputError."""
        processor = sentencepiece.SentencePieceProcessor()
        try:
            self.exact_model_bytes = with_exact_scores(model_bytes)
            processor.LoadFromSerializedProto(self.exact_model_bytes)
        except (RuntimeError, ValueError) as error:  # SentencePiece's own message may be no UTF-8
            raise InputError(
                f"{name}: this is no SentencePiece model; give a `.model` file "
                "or train one with `train:VOCAB`."
            ) from error
        if processor.eos_id() < 0:
            raise InputError(
                f"{name}: the model has no end-of-sentence piece to end documents with; "
                "give a model that has `</s>`."
            )
        if processor.unk_id() < 0:
            raise InputError(
                f"{name}: the model has no piece for what it does not know; give a model that has "
                "`<unk>`."
            )
        self._processor = processor
        self.model_bytes = model_bytes

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Loads a `.model` file. Raises InputError when it is absent or no SentencePiece model."""
        try:
            with Path(path).open("rb") as file:
                model = file.read(LARGEST + 1)
        except OSError as error:
            raise InputError(f"tokenizer {path}: cannot be read: {error.strerror}.") from error
        return cls(model, name=f"tokenizer {path}")

    @property
    def vocab_size(self) -> int:
        """The number of ids; every id is below it."""
        return self._processor.vocab_size()

    @property
    def end_of_document(self) -> int:
        """The id put after every document: the model's `</s>`, as Fugaku-LLM's training did."""
        return self._processor.eos_id()

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The ids that end a text: that put after every document first, then others' habits."""
        end, process = self.end_of_document, self._processor
        known = [process.piece_to_id(piece) for piece in _ENDS]
        found = {
            n for n, piece in zip(known, _ENDS, strict=True) if process.id_to_piece(n) == piece
        }
        return (end, *sorted(found - {end}))

    def byte(self, token: int) -> int | None:
        """The value of a piece that stands for a byte; None of every other piece."""
        if not self._processor.is_byte(token):
            return None
        return int(self._processor.id_to_piece(token)[3:-1], 16)

    def piece(self, token: int) -> str:
        """What the model calls a token: `</s>`, `▁the`."""
        return self._processor.id_to_piece(token)

    @functools.cached_property
    def sha256(self) -> str:
        """The sha256 of the serialised model, in hex."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    @functools.cached_property
    def cuts_sha256(self) -> str:
        """The sha256, in hex, of all that decides how a text is cut: pieces and settings."""
        return hashlib.sha256(cuts(self.exact_model_bytes)).hexdigest()

    @property
    def only_here(self) -> str | None:
        """Why a run with this tokenizer cannot be taken to other projects, if it cannot."""
        return only_here(self.model_bytes)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end-of-document token.

        Raises:
            InputError: the text holds half of a surrogate pair, which UTF-8 cannot write.
        """
        try:
            return self._processor.encode(text.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"The text is not Unicode: {error.reason}.") from error

    def encode_array(self, text: str | bytes) -> Int32[np.ndarray, "T"]:
        """`encode`, of a text or its UTF-8 bytes, as an array: faster, as no list is made."""
        return self._processor.encode(text, return_type="numpy")

    def encode_arrays(self, texts: Sequence[bytes]) -> list[Int32[np.ndarray, "T"]]:
        """`encode_array` of several texts in UTF-8, in this thread: faster, if they are short."""
        return self._processor.encode(list(texts), return_type="numpy", num_threads=1)

    def encode_spans(self, text: str) -> tuple[Int32[np.ndarray, "T"], Int64[np.ndarray, "T 2"]]:
        """The ids of a text, and which of its UTF-8 bytes each of them stands for, [begin, end).

        Of a character that several byte pieces write, each stands for all bytes.

        Raises:
            InputError: as `encode`.
        """
        try:
            pieces = self._processor.encode(text.encode(), return_type="proto").pieces
        except UnicodeEncodeError as error:
            raise InputError(f"The text is not Unicode: {error.reason}.") from error
        ids = np.array([each.id for each in pieces], np.int32)
        spans = np.array([(each.begin, each.end) for each in pieces], np.int64).reshape(-1, 2)
        for place in range(len(spans) - 2, -1, -1):
            if spans[place, 0] == spans[place, 1]:
                spans[place, 1] = spans[place + 1, 1]
        return ids, spans

    def decode(self, ids: Sequence[int] | Integer[np.ndarray, "T"]) -> str:
        """The text of ids. Ids of control pieces (`</s>`, …) give nothing.

        Raises:
            InputError: an id is not below `vocab_size`.
        """
        return self._processor.decode(self._known(ids))

    def decode_each(
        self, ids: Sequence[int] | Integer[np.ndarray, "T"]
    ) -> tuple[bytes, Int64[np.ndarray, "T"]]:
        """The text of ids as UTF-8, and where in it each of them ends.

        What an id adds is whole characters: one that several bytes write belongs to the last.
        Raises as `decode`.
        """
        decoded = self._processor.decode(self._known(ids), return_type="proto")
        return decoded.text.encode(), np.array([each.end for each in decoded.pieces], np.int64)

    def _known(self, ids: Sequence[int] | Integer[np.ndarray, "T"]) -> list[int]:
        known: list[int] = np.asarray(ids, np.int64).tolist()
        if known and not 0 <= min(known) <= max(known) < self.vocab_size:
            raise InputError(
                f"tokens: ids must be from 0 to {self.vocab_size - 1}, got {max(known)}."
            )
        return known


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a unigram model (Kudo 2018, arXiv:1804.10959) with byte fallback.

    Identity normaliser, digits split, newlines and runs of spaces kept as pieces, so that
    `decode(encode(text)) == text` for every text without NUL and without U+2581, the character
    by which SentencePiece itself writes a space. The same texts give the same model.

    Args:
        texts: the training texts; lines of more than 16,384 characters are trained on in parts.
        vocab_size: the number of pieces wanted.

    Raises:
        InputError: there is no text, or the texts cannot give that many pieces (or so few).
    """
    model, failures = io.BytesIO(), []

    def lines() -> Iterator[str]:
        try:
            yield from _lines(texts)
        except BaseException as error:  # the trainer would make a RuntimeError of it
            failures.append(error)

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n"] + ["\u2581" * n for n in range(2, _LONGEST_SPACE_RUN + 1)],
            max_sentence_length=_LONGEST_LINE,
            num_threads=_TRAINING_THREADS,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if not failures:
            raise InputError(_training_sentence(str(error), vocab_size)) from error
    if failures:
        raise failures[0]
    return Tokenizer(model.getvalue())


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        # NUL ends a string inside the trainer, and U+2581 is its own mark for a space.
        for line in re.split("[\n\0\u2581]", text):
            yield from _PARTS.findall(line)


def _training_sentence(message: str, vocab_size: int) -> str:
    """SentencePiece's own message, shortened to what a person can act on."""
    too_high = re.search(r"Vocabulary size too high .*?<= (\d+)", message)
    too_low = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if too_high:
        limit = f"the texts give at most {too_high[1]} pieces"
    elif too_low:
        limit = f"the characters of the texts and the bytes alone need {too_low[1]} pieces"
    else:
        limit = message.rpartition("] ")[2].strip().rstrip(".") or "there is no text to train on"
    return f"tokenizer train:{vocab_size}: cannot be trained: {limit}."
