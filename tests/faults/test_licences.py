"""The list of licences holds all that the project asks for."""

import audit
from licences import PAGE, asked_for, needed


def test_the_page_of_licences_lists_every_dependency():
    page = PAGE.read_text(encoding="utf-8")
    asked = asked_for()
    assert {"jax", "pyarrow", "torch", "ruff"} <= set(asked)
    missing = [name for name in asked if f"| **{name}** |" not in page]
    assert not missing, "run `make licences`"


def test_an_audit_that_could_ask_nobody_says_so(monkeypatch, capsys):
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda _: None)
    assert audit.main() == audit.UNASKED
    said = capsys.readouterr().out
    assert "NOT CHECKED: pip-audit is not installed" in said
    assert f"jax=={needed()['jax'].version}" in said
