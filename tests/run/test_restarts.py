"""A run goes on after a session has ended, as long as something comes of it."""

import errno

import pytest

from fugaku_jax.run.checkpoint_folder import CHECKPOINTS, FINISHED
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.restarts import RESTARTS_FILE, why_not_go_on


@pytest.fixture
def run(tmp_path):
    """A run that can be said to have a checkpoint."""
    (tmp_path / CONFIG_FILE).write_text("{}")

    def saved(step):
        folder = tmp_path / CHECKPOINTS / str(step)
        folder.mkdir(parents=True)
        (folder / FINISHED).touch()

    return tmp_path, saved


@pytest.mark.parametrize("code", [75, 1, 137])
def test_it_goes_on_unless_three_sessions_in_a_row_leave_no_newer_checkpoint(run, code):
    path, saved = run
    assert why_not_go_on(path, code) == ""
    for step in (10, 20):
        saved(step)
        assert [why_not_go_on(path, code) for _ in range(3)] == [""] * 3
    said = "3 sessions in a row have left no checkpoint after that of step 20"
    assert why_not_go_on(path, code) == said
    saved(30)
    assert why_not_go_on(path, code) == ""


def test_a_checkpoint_that_is_not_finished_does_not_count(run):
    path, _ = run
    (path / CHECKPOINTS / "10").mkdir(parents=True)
    assert [bool(why_not_go_on(path, 1, most_fruitless=2)) for _ in range(2)] == [False, True]


def test_where_sessions_in_vain_cannot_be_counted_there_is_no_end_of_them_so_none_follows(
    run, monkeypatch
):
    path, _ = run

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fugaku_jax.run.restarts.write_json", full)
    assert "restarts.json cannot be written (No space left on device)" in why_not_go_on(path, 1)


def test_what_is_done_or_wrong_or_not_there_does_not_go_on_and_leaves_nothing(run, tmp_path):
    path, _ = run
    assert why_not_go_on(path, 1) == ""
    assert "is wrong" in why_not_go_on(path, 2)
    assert why_not_go_on(path, 0) == "the run is done"
    assert not (path / RESTARTS_FILE).exists()
    assert "no run" in why_not_go_on(tmp_path / "none", 1)
    assert not (tmp_path / "none").exists()
