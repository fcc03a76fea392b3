"""What each question's answer is as a page."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from fugaku_jax.tracing.forgetting import Forgetting
from fugaku_jax.tracing.influence import Influence
from fugaku_jax.tracing.losses import LossesOfDocument, TracedLosses
from fugaku_jax.tracing.matches import Origin, TracedText
from fugaku_jax.tracing.page import AnswerPage, Section
from fugaku_jax.tracing.passed import PassedBatch
from fugaku_jax.tracing.rows import TracedRow, stated, traced_step
from fugaku_jax.tracing.sightings import Sighting, TracedDocument, traced_document
from fugaku_jax.tracing.traced_run import TracedRun


def text_page(run: TracedRun, found: TracedText) -> AnswerPage:
    """Return the page of a text, its spans underlined."""
    sections = [
        Section(
            f"“{span.text}”",
            f"{span.tokens} tokens, found {'once' if span.count == 1 else f'{span.count} times'}",
            span.documents,
        )
        for span in found.spans
    ]
    shares = [
        share
        for each in (found.share_by_source, found.share_by_licence)
        for share in sorted(each.items(), key=lambda share: -share[1])
    ]
    taken = run.steps_taken()
    return AnswerPage(
        "Where a text comes from",
        f"{found.share_found:.1%} of it stands word for word in the training data of the run, "
        f"which has taken {taken} steps.",
        "Spans, rarest first",
        tuple(sections),
        taken,
        tuple(shares),
        tuple(_pieces(found)),
    )


def step_page(run: TracedRun, step: int, rows: Iterable[TracedRow]) -> AnswerPage:
    """Return the page of what a step reads."""
    note = f"The run has {run.steps} steps and has taken {run.steps_taken()}."
    sections = [each for row in rows for each in _spans(row, step)]
    return _page(f"What step {step} reads", note, "Rows", sections, run.steps)


def passed_page(run: TracedRun, batches: Sequence[PassedBatch]) -> AnswerPage:
    """Return the page of the batches that a run went past."""
    sections = [
        replace(each, title=f"batch {batch.batch}, {each.title}", note=f"{batch.why}; {each.note}")
        for batch in batches
        for row in batch.rows
        for each in _spans(row, None)
    ]
    note = f"{len(batches)} batches that no step reads any more."
    return _page("What the run went past", note, "Batches", sections, run.steps)


def document_page(run: TracedRun, found: Sequence[TracedDocument]) -> AnswerPage:
    """Return the page of when a run sees a document."""
    title = f"When the run sees {found[0].document}"
    note = f"The run has {run.steps} steps and has taken {run.steps_taken()}."
    return _page(title, note, "Where it is", [_seen(run, each) for each in found], run.steps)


def losses_page(run: TracedRun, found: TracedLosses) -> AnswerPage:
    """Return the page of the documents that a run predicted worst, and forgot most."""
    sections = [
        _losses(run, kind, each)
        for kind, some in (("worst", found.worst), ("forgotten", found.forgotten))
        for each in some
    ]
    note = "The loss of a document is that of before the step learned from it, in nats a token."
    heading = "Worst predicted, then most forgotten"
    return _page("What the run predicts worst", note, heading, sections, run.steps_taken())


def influence_page(run: TracedRun, prompt: str, found: Sequence[Influence]) -> AnswerPage:
    """Return the page of the documents whose gradients point the way of a prompt's."""
    sections = []
    for each in found:
        seen = [
            sighting
            for same in traced_document(run, each.document)
            if same.set == each.set
            for sighting in same.seen
        ]
        note = f"cosine {each.cosine:+.4f}, dot {each.dot:+.4g}"
        sections.append(_section(run, each, note, seen))
    note = "Documents whose gradients point the way of this text's, nearest first."
    page = _page("What pulls the way of a text", note, "Documents", sections, run.steps)
    return replace(page, pieces=((None, prompt),))


def forgetting_page(run: TracedRun, way: Forgetting, said: str) -> AnswerPage:
    """Return the page of what it takes to train on without documents, and what is said of it."""
    found = [each for document in way.documents for each in traced_document(run, document)]
    sections = [_seen(run, each) for each in found]
    return _page("The way around documents", said, "Documents", sections, run.steps)


def _page(
    title: str, note: str, heading: str, sections: Sequence[Section], steps: int
) -> AnswerPage:
    """Return a page with the share of its documents that each source and licence has."""
    documents = [each for section in sections for each in section.documents]
    shares = [
        (name, count / len(documents))
        for names in (
            [each.source for each in documents],
            [stated(each.licence) for each in documents],
        )
        for name, count in Counter(names).most_common()
    ]
    return AnswerPage(title, note, heading, tuple(sections), steps, tuple(shares))


def _spans(row: TracedRow, step: int | None) -> list[Section]:
    return [
        Section(
            f"row {row.row}, columns {each.first_column} to {each.last_column}",
            f"set {row.set}, from character {each.first_character} of the document on"
            + (f"; {each.decisions}" if each.decisions else ""),
            (Origin(each.document, row.set, each.source, each.licence, (step,) if step else ()),),
            each.text,
        )
        for each in row.spans
    ]


def _seen(run: TracedRun, each: TracedDocument) -> Section:
    before, after = each.checkpoint_before, each.checkpoint_after
    notes = [
        "held out" if each.split == "validation" else f"seen in {len(each.seen)} rows",
        f"last checkpoint without it: {'none' if before is None else f'step {before}'}",
        f"first with it: {'none' if after is None else f'step {after}'}",
        f"sha256 {each.sha256}",
        *([each.decisions] if each.decisions else []),
    ]
    return _section(run, each, "; ".join(notes), each.seen)


def _losses(run: TracedRun, kind: str, each: LossesOfDocument) -> Section:
    rise = "" if each.rise is None else f", rise {each.rise:+.3f}"
    losses = ", ".join(f"step {x.step}: {x.loss:.3f}" for x in each.seen[:20])
    seen = [Sighting(x.step, x.row, x.first_column, x.last_column) for x in each.seen]
    return _section(run, each, f"{kind}: last loss {each.last_loss:.3f}{rise}; {losses}", seen)


def _section(
    run: TracedRun,
    each: TracedDocument | LossesOfDocument | Influence,
    note: str,
    seen: Sequence[Sighting],
) -> Section:
    """Return the section of a document, with that part of its text that was seen first."""
    steps = tuple(sorted({sighting.step for sighting in seen}))
    origin = Origin(each.document, each.set, each.source, each.licence, steps)
    text = ""
    for first in seen[:1]:
        for row in traced_step(run, first.step, first.row, first.last_column):
            text = "".join(span.text for span in row.spans)
    return Section(each.document, note, (origin,), text)


def _pieces(found: TracedText) -> list[tuple[int | None, str]]:
    """Cut a text where spans begin and end; each piece is with its rarest span, if it has one."""
    spans = [0] * len(found.text)  # of each character, counted from 1
    for number, span in reversed(list(enumerate(found.spans, 1))):
        end = span.first_character + len(span.text)
        spans[span.first_character : end] = [number] * len(span.text)
    pieces = []
    for number, group in groupby(zip(spans, found.text, strict=True), key=lambda each: each[0]):
        pieces.append((number or None, "".join(character for _, character in group)))
    return pieces
