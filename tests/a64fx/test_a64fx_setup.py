"""The set-up is complete or not there, and says what it wants in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import setup

pytestmark = pytest.mark.a64fx


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_setup_that_was_interrupted_is_made_again_and_one_that_ended_is_kept(
    empty_cache, monkeypatch
):
    def install_half(made):
        (made / "site" / "half").touch()
        raise setup.CannotSetUp("the network is gone")

    monkeypatch.setattr(setup, "_install_root", lambda _: None)
    monkeypatch.setattr(setup, "_install_wheels", install_half)
    with pytest.raises(setup.CannotSetUp):
        setup.set_up()
    assert not setup.folder().exists()

    monkeypatch.setattr(setup, "_install_wheels", lambda made: (made / "site" / "all").touch())
    made = setup.set_up()
    assert made == setup.folder()
    assert made.is_relative_to(empty_cache)
    assert [each.name for each in (made / "site").iterdir()] == ["all"]

    monkeypatch.setattr(setup, "_run", None)  # kept: nothing is run, so nothing is downloaded
    assert setup.set_up() == made


def test_another_version_of_a_dependency_makes_another_machine(monkeypatch):
    now = setup.folder()
    monkeypatch.setattr(setup, "_pins", lambda: ["jax==0.0.1"])
    assert setup.folder() != now


def test_every_dependency_of_the_package_and_its_kernels_tests_is_pinned_with_its_own():
    names = {pin.split("==")[0] for pin in setup._pins()}
    assert {"jax", "jaxlib", "flax", "orbax-checkpoint", "tensorstore", "markupsafe"} <= names
    assert {"pytest", "hypothesis", "pluggy"} <= names
    assert not names & {"torch", "transformers", "ruff"}


def test_a_missing_program_is_a_sentence_and_exit_code_2(tmp_path):
    program = Path(setup.__file__)
    done = subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | {"PATH": str(tmp_path)},  # no program at all, apt-get neither
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: An emulated A64FX needs programs")
    assert "g++-aarch64-linux-gnu gcc llvm mmdebstrap qemu-user" in done.stderr
    assert done.stderr.count("\n") == 1
