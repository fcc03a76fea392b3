"""From files of dialogues to a token store, whose answers are marked and whose rows are packed."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from fugaku_jax.data.build import OnBadLine
from fugaku_jax.data.held_out import is_held_out
from fugaku_jax.data.marks import mark, padding
from fugaku_jax.data.split_writer import EncodedDocument
from fugaku_jax.data.store_format import SPLITS, SplitName
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.writer import SetWriter, StoreWriter
from fugaku_jax.errors import InputError
from fugaku_jax.ledger.documents import DocumentRow
from fugaku_jax.tuning.chat_template import ChatTemplate
from fugaku_jax.tuning.dialogues import Dialogue, read_dialogues
from fugaku_jax.tuning.encode import EncodedDialogue, encode_dialogue
from fugaku_jax.tuning.packing import Packer
from fugaku_jax.tuning.preferences import Preference, read_preferences

_MOST_LISTED = 1000  # lines that are left out; the others are only counted


@dataclass
class TuningData:
    """What became of the files."""

    dialogues: dict[SplitName, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    rows: dict[SplitName, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    learned: dict[SplitName, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Tokens of answers."""
    read: dict[SplitName, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """All tokens, without padding."""
    too_long: int = 0
    """Dialogues with more tokens than a row, which are left out."""
    without_end: int = 0
    """Answers whose end is not learned, as the template puts nothing behind them."""
    bad_line_count: int = 0
    bad_lines: list[str] = field(default_factory=list)


def build_dialogues(
    out: str,
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    row_tokens: int,
    validation: float = 0.05,
    on_bad_line: OnBadLine = "stop",
    end_of_document: int | None = None,
    pairs: bool = False,
) -> TuningData:
    """Build a store of dialogues. The same files give the same store.

    Args:
        out: folder or URL; an older store there is replaced when the new one is whole.
        paths: files of dialogues.
        tokenizer: of the model.
        template: how a dialogue is told to it.
        row_tokens: tokens of a row, the model's sequence length.
        validation: fraction of the dialogues to hold out.
        on_bad_line: "stop" at a line that is no dialogue, or "skip" it and list it.
        end_of_document: the token that ends dialogues; the tokenizer's own if None.
        pairs: whether the files hold pairs of a chosen and a rejected answer. Both are dialogues,
            which follow each other in the same row.

    Raises:
        InputError: a file is wrong or absent, no dialogue is left to train on, the template marks
            no answer, or `out` cannot be written.
    """
    if not 0 <= validation < 1:
        raise InputError(f"--validation: must be from 0 to below 1, got {validation}.")
    end = tokenizer.end_of_document if end_of_document is None else end_of_document
    report = TuningData()
    with StoreWriter(out, tokenizer, end, row_tokens) as writer:
        set_writer = writer.add_set("dialogues")
        sides = {split: _Side(set_writer, split, row_tokens, end, report) for split in SPLITS}
        encoded = _encoded(paths, tokenizer, template, end, on_bad_line, report, pairs)
        for asked, together in encoded:
            if sum(len(each.tokens) for each in together) > row_tokens:
                report.too_long += len(together)
                continue
            sha256 = hashlib.sha256(asked.encode()).hexdigest()
            sides["validation" if is_held_out(sha256, validation) else "train"].add(together)
        for side in sides.values():
            side.finish()
        if not report.dialogues["train"]:
            long = f"; {report.too_long} have more than {row_tokens} tokens" * bool(report.too_long)
            raise InputError(f"no dialogue to train on in {', '.join(map(str, paths))}{long}.")
        set_writer.finish("dialogues", None)
        writer.publish()
    return report


def _encoded(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    end: int,
    on_bad_line: OnBadLine,
    report: TuningData,
    pairs: bool,
) -> Iterator[tuple[str, tuple[EncodedDialogue, ...]]]:
    """Yield the dialogues of a line, one or the two of a pair, and what decides their side.

    That is a dialogue's text; of a pair what both begin with, so that one prompt's pairs share it.
    """
    read = read_preferences if pairs else read_dialogues
    for each in chain.from_iterable(map(read, paths)):
        if isinstance(each, Dialogue):
            encoded = encode_dialogue(each, template, tokenizer, end)
            yield encoded.text, (encoded,)
            continue
        if isinstance(each, Preference):
            both, prompt = (each.chosen, each.rejected), each.prompt
            asked = "\n".join(said.content for said in each.chosen.messages[:prompt])
            yield asked, tuple(encode_dialogue(x, template, tokenizer, end, prompt) for x in both)
            continue
        if on_bad_line == "stop":
            raise InputError(
                f"{each.sentence.rstrip('.')}; `--on-bad-line skip` leaves such lines out."
            )
        report.bad_line_count += 1
        if report.bad_line_count <= _MOST_LISTED:
            report.bad_lines.append(each.sentence)


class _Side:
    """Packs the dialogues of one side into rows, and writes them."""

    def __init__(
        self, writer: SetWriter, split: SplitName, row_tokens: int, end: int, report: TuningData
    ) -> None:
        self._writer, self._split, self._end, self._report = writer, split, end, report
        self._packer = Packer[list[EncodedDocument]](row_tokens)
        self._row: list[EncodedDocument] = []  # the last that was packed, still to be written
        self._left = 0  # its tokens that are padding

    def add(self, together: Sequence[EncodedDialogue]) -> None:
        """Take dialogues that are to share a row."""
        documents = [self._document(each) for each in together]
        self._take(self._packer.add(documents, sum(len(each.tokens) for each in together)))

    def _document(self, each: EncodedDialogue) -> EncodedDocument:
        count, text = len(each.tokens), each.text.encode()
        sha256 = hashlib.sha256(text).hexdigest()
        row = DocumentRow(
            each.dialogue.id,
            each.dialogue.source or "dialogues",
            each.dialogue.licence,
            sha256,
            count,
            len(text),
        )
        self._report.dialogues[self._split] += 1
        self._report.read[self._split] += count
        self._report.learned[self._split] += int(each.learned.sum())
        self._report.without_end += each.without_end
        return EncodedDocument(row, mark(each.tokens, each.learned), text)

    def finish(self) -> None:
        self._take(self._packer.rest())
        # A row's last token is predicted by the row before it, so one more is needed.
        self._left += 1
        self._write()

    def _take(self, rows: Iterable[tuple[list[list[EncodedDocument]], int]]) -> None:
        for row, left in rows:
            self._write()
            self._row, self._left = list(chain.from_iterable(row)), left

    def _write(self) -> None:
        """Write the row that was packed last, padding behind its last dialogue."""
        if not self._row:
            return
        last, empty = self._row[-1], padding(self._end, self._left)
        last.row.length += self._left
        last.tokens = np.concatenate([last.tokens, empty])
        for document in self._row:
            self._writer.append(document, self._split)
        self._report.rows[self._split] += 1
