"""A run killed by SIGKILL again and again is, bit for bit, one that nothing befell."""

import pytest
from kills import Fault, Killer, Moment, check_same

pytestmark = pytest.mark.slow


def test_a_run_killed_at_its_small_files_its_saves_and_its_steps_loses_nothing(tmp_path):
    killer = Killer(tmp_path, also=["--training.sample-tokens", "0"])
    whole = killer.undisturbed()
    run = tmp_path / "run"
    for moment in (Moment("touch", 8), Moment("save", 0.0), Moment("step", 8)):
        assert not killer.kill(run, moment)
    killer.finish(run)
    check_same(run, whole)
    assert killer.restarts == 3
    met = {name for name, count in killer.stages.items() if count}
    assert {"small files", "save"} <= met <= {"small files", "save", "step"}  # a step writes some
    (run / "ledger.json").write_text("{}")
    with pytest.raises(Fault, match="configuration differ"):
        check_same(run, whole)
