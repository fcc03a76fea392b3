"""`--html` of each question is one page that says what the answer says."""

import html
import json
import re
from html.parser import HTMLParser

import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.run.going_back import GoingBack, record_going_back
from fugaku_jax.tracing.answer_pages import influence_page, losses_page
from fugaku_jax.tracing.influence import Influence
from fugaku_jax.tracing.losses import LossesOfDocument, SeenLoss, TracedLosses
from fugaku_jax.tracing.page import write_page
from fugaku_jax.tracing.rows import stated, traced_step
from fugaku_jax.tracing.traced_run import TracedRun

VOID = {"meta"}


class Balanced(HTMLParser):
    """Holds a page to closing what it opens, and to naming nothing outside of itself."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe")
        assert all(value.startswith("#") for name, value in attrs if name in ("href", "src"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """What closes itself."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def sections(path):
    """The sections of a page, as text; and how many marks are on the strips of each."""
    text = path.read_text()
    Balanced(text)
    assert text.count("<html") == 1
    parts = re.findall("<section.*?</section>", text, re.DOTALL)
    plain = [html.unescape(re.sub("<[^>]*>", "", part)) for part in parts]
    return plain, [part.count('fill="var(--mark)"') for part in parts]


def first_span(run):
    """The first span of step 2 and the set that it is in."""
    return next((span, row.set) for row in traced_step(run, 2) for span in row.spans)


def test_a_step_is_shown_with_every_span_its_text_and_its_licence(trace, begun, tmp_path):
    path = tmp_path / "page.html"
    answer = json.loads(trace(begun[0], "step", 2, "--html", path, "--json"))
    spans = [(row["row"], span) for row in answer["rows"] for span in row["spans"]]
    shown, marks = sections(path)
    assert len(shown) == len(spans) > 4
    assert set(marks) == {1}
    for (row, span), text in zip(spans, shown, strict=True):
        assert f"row {row}, columns {span['first_column']} to {span['last_column']}" in text
        assert span["text"].strip() in text
        origin = f"{span['document']} · {span['source']} · {stated(span['licence'])}"
        assert origin in text
        assert "read in step 2" in text


def test_a_document_is_shown_with_the_strip_of_the_steps_that_see_it(trace, begun, tmp_path):
    (span, _), path = first_span(TracedRun(begun[0])), tmp_path / "page.html"
    answer = json.loads(trace(begun[0], "document", span.document, "--html", path, "--json"))
    (found,) = answer["documents"]
    (shown,), (marks,) = sections(path)
    steps = sorted({each["step"] for each in found["seen"]})
    assert marks == len(steps) > 0
    assert found["sha256"] in shown
    assert f"seen in {len(found['seen'])} rows; last checkpoint without it: none" in shown


def test_the_way_around_documents_and_what_was_passed_over_are_shown(trace, begun, tmp_path):
    run_dir, path = begun[0], tmp_path / "page.html"
    document = first_span(TracedRun(run_dir))[0].document
    printed = trace(run_dir, "forget", document, "--html", path)
    (shown,), (marks,) = sections(path)
    assert document in shown
    assert marks > 0
    page = html.unescape(path.read_text())
    assert all(line in page for line in printed.splitlines())

    record_going_back(run_dir, GoingBack(0, 2, 1, 2, "a spike"))
    trace(run_dir, "passed", "--html", path)
    shown, marks = sections(path)
    assert {text.partition(",")[0].strip() for text in shown} == {"batch 1", "batch 2"}
    assert all("a spike" in text for text in shown)
    assert set(marks) == {0}


def test_losses_and_influence_are_shown_with_texts_and_steps(begun, tmp_path):
    run, path = TracedRun(begun[0]), tmp_path / "page.html"
    span, name = first_span(run)
    about = span.document, name, span.source, span.licence
    seen = tuple(SeenLoss(step, 0, span.first_column, span.last_column, 4.5) for step in (2, 5))
    worst = LossesOfDocument(*about, 30, 4.5, 0.25, (2, 5), seen)
    write_page(path, losses_page(run, TracedLosses((worst,), (worst,))))
    shown, marks = sections(path)
    assert marks == [2, 2]
    assert "worst: last loss 4.500, rise +0.250; step 2: 4.500, step 5: 4.500" in shown[0]
    assert "forgotten: last loss" in shown[1]
    assert span.text.strip() in shown[0]

    prompt = "<script>川</script>"
    write_page(path, influence_page(run, prompt, [Influence(*about, 0.5, 2.0)]))
    (shown,), (marks,) = sections(path)
    assert "cosine +0.5000, dot +2" in shown
    assert marks > 0
    assert "&lt;script&gt;川&lt;/script&gt;" in path.read_text()


@pytest.mark.parametrize("asked", [("step", 1), ("forget", "{}"), ("document", "{}")])
def test_a_page_that_cannot_be_written_gets_a_sentence(trace, begun, tmp_path, asked):
    document = first_span(TracedRun(begun[0]))[0].document
    asked = [str(each).format(document) for each in asked]
    with pytest.raises(InputError, match=r"--html .*cannot be written"):
        trace(begun[0], *asked, "--html", tmp_path / "nowhere" / "page.html")
