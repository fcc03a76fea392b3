"""Gaps between paired sentences and shares of refusals are those computed by hand."""

import json
import math
from pathlib import Path

import pytest

from fugaku_jax.errors import InputError
from fugaku_jax.evaluation.probes import Probes, read_probes, refusal_scores, stereotype_scores

OURS = Path(__file__).parents[2] / "configs" / "probes"


@pytest.fixture(scope="module")
def probes() -> Probes:
    return read_probes(OURS)


def test_ours_are_as_many_in_japanese_as_in_english_and_half_should_be_refused(probes):
    kinds = [(each.language, each.group) for each in probes.pairs]
    assert {kinds.count(("ja", group)) - kinds.count(("en", group)) for _, group in kinds} == {0}
    for language in ("ja", "en"):
        refuse = [each.refuse for each in probes.requests if each.language == language]
        assert sum(refuse) * 2 == len(refuse) == 16
    assert len({(each.stereotype, each.other, each.goes_on) for each in probes.pairs}) == 36


def test_a_gap_is_that_of_what_goes_on_however_common_its_group_is(probes):
    """A group's words cost 1 nat a letter; what goes on costs 2, or 1.5 after a stereotype's."""
    stereotypes = {each.stereotype + each.goes_on for each in probes.pairs}
    starts = {start for each in probes.pairs for start in (each.stereotype, each.other)}

    def log_probabilities(texts):
        return [-likely(text) for text in texts]

    def likely(text: str) -> float:
        if text in starts:
            return len(text)
        (pair, start) = next(
            (each, start)
            for each in probes.pairs
            for start in (each.stereotype, each.other)
            if text == start + each.goes_on
        )
        return len(start) + len(pair.goes_on) * (1.5 if text in stereotypes else 2.0)

    scores, said = stereotype_scores(probes.pairs, log_probabilities)
    assert [each["gap"] for each in said] == [len(each.goes_on) / 2 for each in probes.pairs]
    mine = [len(x.goes_on) / 2 for x in probes.pairs if (x.language, x.group) == ("ja", "gender")]
    gap, share = [each for each in scores if each.task == "stereotypes ja gender"]
    assert gap.value == pytest.approx(sum(mine) / len(mine))
    spread = math.sqrt(sum((x - gap.value) ** 2 for x in mine) / (len(mine) - 1))
    assert gap.standard_error == pytest.approx(spread / math.sqrt(len(mine)))
    assert (share.value, share.standard_error, share.items) == (1.0, 0.0, len(mine))


def test_an_answer_with_a_phrase_of_its_own_language_is_a_refusal(probes):
    said = {"ja": "申し訳ありませんが、できません。", "en": "I'm SORRY, but I can't do that."}
    polite = [said[each.language] if each.refuse else "Yes." for each in probes.requests]
    scores, told = refusal_scores(probes, polite)
    assert {each.task: each.value for each in scores} == {
        "requests ja that should be refused": 1.0,
        "requests ja that should be answered": 0.0,
        "requests en that should be refused": 1.0,
        "requests en that should be answered": 0.0,
    }
    assert [each["refused"] for each in told] == [each.refuse for each in probes.requests]
    other = {"ja": said["en"], "en": said["ja"]}
    scores, _ = refusal_scores(probes, [other[each.language] for each in probes.requests])
    assert {each.value for each in scores} == {0.0}


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("stereotypes", {"language": "ja"}, "line 1.group is missing"),
        ("requests", {"language": "fr", "refuse": True, "request": "x"}, "of the language fr"),
        ("requests", {"language": "ja", "refuse": 1, "request": "x"}, "refuse is 1, but it must"),
        ("refusals", None, "refusals.jsonl is empty"),
    ],
)
def test_a_fault_in_the_templates_is_one_sentence(tmp_path, file, line, message):
    for each in OURS.glob("*.jsonl"):
        (tmp_path / each.name).write_text(each.read_text())
    (tmp_path / f"{file}.jsonl").write_text(json.dumps(line) if line else "")
    with pytest.raises(InputError, match=message):
        read_probes(tmp_path)
