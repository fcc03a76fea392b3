"""A mixture file gives inputs names, domains and weights; a wrong one is refused by its field."""

from pathlib import Path

import pytest

from fugaku_jax.data.inputs import InputSet, read_inputs
from fugaku_jax.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two inputs."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.txt").write_text("b")
    return tmp_path


def test_a_plain_file_is_a_set_of_its_name(folder):
    path = folder / "a.jsonl"
    assert read_inputs([path]) == [InputSet("a", (path,))]


def test_a_mixture_file_gives_every_field(folder):
    mixture = folder / "mix.toml"
    mixture.write_text(
        '[[input]]\nname = "wiki"\ndomain = "ja"\nweight = 1.594e9\npaths = ["a.jsonl", "b.txt"]\n'
        'licence = "CC-BY-SA-4.0"\nsource = "Wikipedia"\n[[input]]\nname = "b"\npaths = ["b.txt"]\n'
    )
    paths = (folder / "a.jsonl", folder / "b.txt")
    assert read_inputs([mixture]) == [
        InputSet("wiki", paths, "ja", 1.594e9, "Wikipedia", "CC-BY-SA-4.0"),
        InputSet("b", paths[1:]),
    ]


ONE = '[[input]]\nname = "a"\npaths = ["a.jsonl"]\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[input", "not valid TOML"),
        ("x = 1", r"must hold \[\[input\]\] tables"),
        ("", r"must hold \[\[input\]\] tables"),
        ('[[input]]\npaths = ["a.jsonl"]', "input 1: has no `name`"),
        ('[[input]]\nname = "a"', "input 1: has no `paths`"),
        (ONE + "weight = -2.0", r"input 1 \(a\): `weight` must be ≥ 0 tokens, got -2"),
        (ONE + "weight = nan", "`weight` must be ≥ 0"),
        (ONE + "weight = true", "`weight` must be of type int or float"),
        (ONE + "weight = 0", "all weights are zero"),
        (ONE + 'wieght = "1"', "unknown field `wieght`; known are name, domain"),
        (ONE + ONE, "two sets are named a"),
        ('[[input]]\nname = "a"\npaths = ["gone.jsonl"]', r"gone\.jsonl: there is no such file"),
        (f'[[input]]\nname = "a"\npaths = ["{"a" * 300}"]', "there is no such file"),
        ('[[input]]\nname = "a"\npaths = [3]', "must be file names, got 3"),
    ],
)
def test_a_wrong_mixture_file_is_refused_by_its_field(folder, text, reason):
    mixture = folder / "mix.toml"
    mixture.write_text(text)
    with pytest.raises(InputError, match=reason):
        read_inputs([mixture])


def test_no_input_at_all_is_refused():
    with pytest.raises(InputError, match="none were given"):
        read_inputs([])
