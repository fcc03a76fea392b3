"""The job scripts, with programs in the place of Slurm's, PJM's and MPI's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "launch" / "cluster"
DEFAULT_RUN = "runs/tiny"


@pytest.fixture
def submit(tmp_path):
    """Run a job script in a folder with a run; return its exit code and the calls that it made.

    Programs that it calls write down their arguments, one call a line, and end with the codes that
    are given for them, one after another, and then with the last.
    """

    def submit(script, *arguments, run=DEFAULT_RUN, codes=(), **environ):
        bin_, calls = tmp_path / "bin", tmp_path / "calls"
        (tmp_path / ".venv/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv/bin/activate").touch()
        (tmp_path / run).mkdir(parents=True, exist_ok=True)
        (tmp_path / run / "config.json").write_text("{}")
        bin_.mkdir(exist_ok=True)
        calls.write_text("")
        for link in ("launch", "configs", "fugaku_jax"):
            if not (tmp_path / link).exists():
                (tmp_path / link).symlink_to(ROOT / link)
        for python in (bin_ / "python", tmp_path / ".venv/bin/python"):
            python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
            python.chmod(0o755)
        (tmp_path / "codes").write_text("\n".join(map(str, codes)))
        for name in ("srun", "scontrol", "squeue", "mpirun", "pjsub", "llio_transfer"):
            (bin_ / name).write_text(PROGRAM.format(name=name, folder=tmp_path))
            (bin_ / name).chmod(0o755)
        done = subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"} | environ,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, calls.read_text().splitlines(), done.stderr

    return submit


PROGRAM = """#!/bin/bash
case "{name} $*" in
  llio_transfer*) exit 0 ;;
  *go_on.py*) while [ "${{1##*/}}" != python ]; do shift; done; exec "$@" ;;
  *--version*) echo "mpirun (Open MPI) 5.0.11"; exit 0 ;;
  *hostname*) echo 10.7.0.1 > "$6"; exit 0 ;;
  pjsub*) echo "[INFO.] PJM 0000 pjsub Job 4711_0 submitted." ;;
esac
echo "{name} $*" >> {folder}/calls
echo "end $FUGAKU_JAX_JOB_END" >> {folder}/calls
case "{name} $*" in
  *train.py*) # the next code; the last of them stays
    code=$(head -n 1 {folder}/codes)
    [ "$(wc -l < {folder}/codes)" -eq 0 ] || sed -i 1d {folder}/codes
    exit "$code" ;;
esac
"""

SLURM = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "2", "SLURM_JOB_END_TIME": "1790000000"}


@pytest.mark.parametrize(("code", "requeued"), [(0, 0), (2, 0), (75, 1), (1, 1), (137, 1)])
def test_slurm_is_asked_to_go_on_after_a_stop_or_a_fault_alone(submit, code, requeued):
    found, calls, _ = submit("slurm.sh", "tiny", codes=[code], **SLURM)
    assert found == code
    assert "launch/train.py tiny --training.stop-before-limit 300" in calls[0]
    assert calls[1] == "end 1790000000"
    assert calls.count("scontrol requeue 77") == requeued


def test_slurm_is_not_asked_again_when_nothing_comes_of_it(submit):
    requeued = []
    for _ in range(4):
        _, calls, said = submit("slurm.sh", "tiny", "--run-dir", "r", run="r", codes=[1], **SLURM)
        requeued.append(calls.count("scontrol requeue 77"))
    assert requeued == [1, 1, 0, 0]
    assert "4 sessions in a row have left no checkpoint after that of step 0" in said


def test_mpirun_starts_again_after_a_fault_and_neither_after_a_stop_nor_without_end(
    submit, tmp_path
):
    def starts(*codes):
        code, calls, _ = submit("mpirun.sh", "hosts", "tiny", codes=codes)
        return code, sum(call.startswith("mpirun") for call in calls)

    (tmp_path / "hosts").write_text("node1 slots=2\n")
    assert starts(1, 1, 0) == (0, 3)
    assert starts(75) == (75, 1)
    assert starts(137) == (137, 3)


def test_pjm_submits_sessions_that_begin_when_the_one_before_says_so(submit):
    code, calls, _ = submit("pjm_steps.sh", "3")
    assert code == 0
    assert [call for call in calls if call.startswith("pjsub")] == [
        "pjsub --step launch/cluster/pjm.sh",
        *["pjsub --step --sparam jid=4711,sd=ec!=75:after launch/cluster/pjm.sh"] * 2,
    ]


def test_a_session_of_pjm_knows_its_end_and_says_with_75_alone_that_the_run_goes_on(
    submit, tmp_path
):
    (tmp_path / "rank_map.txt").write_text("(0,0,0)\n")
    environ = {"PJM_JOBID": "5", "PJM_LOCALTMP": str(tmp_path)}

    def session(code):
        run = "runs/fugaku_llm_13b"
        found, calls, _ = submit("pjm.sh", run=run, codes=[code], **environ)
        assert all(int(call.split()[1]) > 1_700_000_000 for call in calls if call[:4] == "end ")
        return found

    assert [session(code) for code in (75, 137, 75)] == [75, 75, 1]
    assert [session(code) for code in (0, 2)] == [0, 2]
