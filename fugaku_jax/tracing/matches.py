"""Where a text stands word for word in what a run learns from, and which steps read it there.

The text is cut into tokens, as the data is. From each token on, as many as stand together in the
data are a match; those that lie within no other are told, rarest first. Japanese puts no spaces
between words, so a span begins and ends at a token, but not within a word of letters or katakana.

Source: Liu et al., "OLMoTrace" (https://arxiv.org/abs/2504.07096).
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from fugaku_jax.tracing.rows import stated
from fugaku_jax.tracing.text_index import TextIndex
from fugaku_jax.tracing.traced_run import TracedRun

_SHOWN = 20
"""Most steps of a document that a line shows."""
_NO_WORDS = ("CJK UNIFIED", "CJK COMPAT", "HIRAGANA", "IDEOGRAPHIC")
"""How the names of letters begin between any two of which a word may begin."""


@dataclass(frozen=True)
class Origin:
    """A document in which a span stands."""

    document: str
    set: str
    source: str
    licence: str | None
    steps: tuple[int, ...]
    """The steps taken so far that read some of the span there, from the first."""

    def __str__(self) -> str:
        steps = ", ".join(map(str, self.steps[:_SHOWN])) or "none yet"
        if len(self.steps) > _SHOWN:
            steps += f" and {len(self.steps) - _SHOWN} more"
        return f"{self.document}, {self.source}, {stated(self.licence)}: steps {steps}"


@dataclass(frozen=True)
class FoundSpan:
    """A part of a text that stands in the training data."""

    first_character: int
    """Of the text, counted from 0."""
    text: str
    tokens: int
    count: int
    """How often it stands there."""
    documents: tuple[Origin, ...]
    """Of the first places found."""

    def __str__(self) -> str:
        count = "once" if self.count == 1 else f"{self.count} times"
        head = f"{self.text!r}, {self.tokens} tokens, found {count}"
        return "\n  ".join([head, *map(str, self.documents)])


@dataclass(frozen=True)
class TracedText:
    """What of a text is found word for word."""

    text: str
    """It, as its tokens write it."""
    spans: tuple[FoundSpan, ...]
    """Rarest first."""
    share_found: float
    """Of its characters, those that lie in a span."""
    share_by_source: dict[str, float]
    """Those that lie in a span that a document of this source has; one may be of several."""
    share_by_licence: dict[str, float]

    def __str__(self) -> str:
        shares = [
            f"  {share:.1%} {name}"
            for shares in (self.share_by_source, self.share_by_licence)
            for name, share in sorted(shares.items(), key=lambda each: -each[1])
        ]
        return "\n".join([*map(str, self.spans), f"found: {self.share_found:.1%}", *shares])


def traced_text(
    run: TracedRun, index: TextIndex, text: str, shortest: int = 6, most: int = 10
) -> TracedText:
    """Find where a text stands in the training data of a run.

    Args:
        run: whose data.
        index: of its store.
        text: what is looked for, as a model may have said it.
        shortest: fewest tokens of a span; three or four stand together by chance.
        most: places to look up for each span.

    Raises:
        InputError: the text is not Unicode.
    """
    tokens = np.array(run.tokenizer.encode(text), np.int32)
    said, ends = run.tokenizer.decode_each(tokens)
    characters = _characters(said, ends)
    decoded, taken = said.decode(), run.steps_taken()
    found = []
    for first, end in _spans(index.longest(tokens), _joints(run, tokens, decoded, characters)):
        if end - first < shortest:
            continue
        a, b = int(characters[first]), int(characters[end])
        places = index.find(tokens[first:end], most)
        origins = tuple(_origins(run, places.places, end - first, taken))
        found.append(FoundSpan(a, decoded[a:b], end - first, places.count, origins))
    found.sort(key=lambda span: (span.count, -span.tokens, span.first_character))
    return TracedText(decoded, tuple(found), *_shares(found, len(decoded)))


def _characters(text: bytes, ends: Int64[np.ndarray, "T"]) -> Int64[np.ndarray, "T+1"]:
    """Return how many characters stand before each token, and before the end."""
    begins = np.frombuffer(text, np.uint8) & 0xC0 != 0x80
    before = np.concatenate([[0], np.cumsum(begins)])
    return before[np.concatenate([[0], ends])]


def _joints(
    run: TracedRun,
    tokens: Int[np.ndarray, "T"],
    text: str,
    characters: Int64[np.ndarray, "T+1"],
) -> list[bool]:
    """Tell for each token, and for the end, whether a span may begin or end before it."""

    def splits_character(i: int) -> bool:
        # The bytes of a character add nothing to the text but the last, which adds all.
        is_byte = i > 0 and run.tokenizer.byte(int(tokens[i - 1])) is not None
        return is_byte and bool(characters[i] == characters[i - 1])

    def splits_word(at: int) -> bool:
        return 0 < at < len(text) and _is_joined(text[at - 1], text[at])

    return [not (splits_character(i) or splits_word(int(at))) for i, at in enumerate(characters)]


def _is_joined(one: str, other: str) -> bool:
    """Tell whether two neighbouring characters are of one word, in scripts that have such."""
    kinds = [_kind(each) for each in (one, other)]
    return kinds[0] == kinds[1] != ""


def _kind(character: str) -> str:
    name = unicodedata.name(character, "")
    if not character.isalnum() or name.startswith(_NO_WORDS):
        return ""
    return "katakana" if "KATAKANA" in name else "letters"


def _spans(longest: Int64[np.ndarray, "T"], joints: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield first token and end of the matches that lie within no other, cut back to joints."""
    cut = []
    for first, length in enumerate(longest.tolist()):
        end = first + length
        while first < end and not joints[first]:
            first += 1
        while first < end and not joints[end]:
            end -= 1
        if first < end:
            cut.append((first, end))
    cut.sort(key=lambda span: (span[0], -span[1]))
    reached = 0
    for first, end in cut:
        if end > reached:
            reached = end
            yield first, end


def _origins(
    run: TracedRun, places: Sequence[tuple[int, int]], length: int, taken: int
) -> Iterator[Origin]:
    steps: dict[tuple[int, str], set[int]] = {}
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for set_index, start in places:
        for row in run.documents_in(set_index, start, start + length - 1):
            key = set_index, row["id"]
            rows[key] = row
            seen = run.order.occurrences(set_index, start, start + length, taken)
            steps.setdefault(key, set()).update(step + 1 for step, _, _ in seen)
    for (set_index, document), row in rows.items():
        name = run.store.sets[set_index].name
        seen = tuple(sorted(steps[set_index, document]))
        yield Origin(document, name, row["source"], row["licence"], seen)


def _shares(
    spans: Sequence[FoundSpan], characters: int
) -> tuple[float, dict[str, float], dict[str, float]]:
    def share(of: Sequence[FoundSpan]) -> float:
        covered = np.zeros(characters, bool)
        for span in of:
            covered[span.first_character : span.first_character + len(span.text)] = True
        return float(covered.mean()) if characters else 0.0

    def by(name: str) -> dict[str, float]:
        held = {
            span: {stated(x.licence) if name == "licence" else x.source for x in span.documents}
            for span in spans
        }
        kinds = sorted(set().union(*held.values()))
        return {kind: share([span for span in spans if kind in held[span]]) for kind in kinds}

    return share(spans), by("source"), by("licence")
