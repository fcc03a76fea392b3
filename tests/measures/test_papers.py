"""What the project says about itself in its papers is so."""

import re
import tomllib

import pytest
from measures import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_make_help_has_a_line_for_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    assert targets[0] == "help"
    assert re.search(r"^\w+:", makefile, re.M)[0] == "help:"  # what `make` alone does
    assert re.findall(r"^(\w+):.* ## .", makefile, re.M) == targets


@pytest.mark.parametrize("paper", ["CONTRIBUTING.md", "README.md", "CHANGELOG.md"])
def test_files_that_a_paper_names_are_there(paper):
    text = (ROOT / paper).read_text()
    named = re.findall(r"(?:fugaku_jax|tests|launch|docs|configs)/[\w/.-]+\.\w+", text)
    assert named
    assert [each for each in named if "NAME" not in each and not (ROOT / each).exists()] == []


def test_versions_of_tools_and_of_the_project_stand_in_one_place():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert PROJECT["version"] in (ROOT / "CHANGELOG.md").read_text()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for tool in PROJECT["optional-dependencies"]["dev"]:
        name, version = tool.split("==")
        assert f"-m {name}" in hooks
        assert version not in hooks
