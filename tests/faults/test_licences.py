"""The list of licences holds all that the project asks for."""

import json
import subprocess

import audit
from licences import PAGE, asked_for, needed


def test_the_page_of_licences_lists_every_dependency():
    page = PAGE.read_text(encoding="utf-8")
    asked = asked_for()
    assert {"jax", "pyarrow", "torch", "ruff"} <= set(asked)
    missing = [name for name in asked if f"| **{name}** |" not in page]
    assert not missing, "run `make licences`"


def test_an_audit_tells_what_is_known_from_what_could_not_be_asked(monkeypatch, capsys, tmp_path):
    versions = {name: each.version for name, each in needed().items()}
    answers = {name: {"name": name, "version": x, "vulns": []} for name, x in versions.items()}

    def answer(*_, **__):
        found = json.dumps({"dependencies": list(answers.values()), "fixes": []})
        return subprocess.CompletedProcess([], 0, found, "")

    (tmp_path / "pip_audit").mkdir()
    monkeypatch.setattr(audit, "TOOL", tmp_path)
    monkeypatch.setattr(audit.subprocess, "run", answer)
    assert audit.main() == 0
    assert capsys.readouterr().out == ""
    answers["jax"] = {"name": "jax", "skip_reason": "jax was not found on PyPI."}
    assert audit.main() == audit.UNASKED
    said = capsys.readouterr().out
    assert said.startswith(f"jax=={versions['jax'].partition('+')[0]}\nNOT CHECKED: jax was not")
    answers["numpy"]["vulns"] = [{"id": "CVE-1", "fix_versions": ["9.9"]}]
    assert audit.main() == 1
    assert "CVE-1, mended in ['9.9']" in capsys.readouterr().out


def test_an_audit_that_could_ask_nobody_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(audit, "TOOL", tmp_path)
    assert audit.main() == audit.UNASKED
    said = capsys.readouterr().out
    assert "NOT CHECKED: pip-audit is not installed" in said
    assert f"jax=={needed()['jax'].version}" in said
