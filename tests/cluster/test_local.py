"""`launch/cluster/local.py` starts processes as a cluster would, and ends them together."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fugaku_jax.cluster.hosts import find_hosts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "launch" / "cluster" / "local.py"
RANK = "FUGAKU_JAX_PROCESS"


def start(*options, program, **environ):
    """Start a Python program under the launcher; its rank is `rank`."""
    code = f"import os, signal, sys, time\nrank = int(os.environ['{RANK}'])\n{program}"
    return subprocess.Popen(
        [sys.executable, str(LOCAL), *map(str, options), "--", sys.executable, "-c", code],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*options, program, **environ):
    """Run it to its end; return exit code, output and errors."""
    process = start(*options, program=program, **environ)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_each_process_is_told_its_rank_and_one_coordinator(tmp_path):
    program = f"open(f'{tmp_path}/{{rank}}', 'w').write(repr(dict(os.environ)))"
    # Variables of a launcher that started us are not those of the processes that we start.
    assert run("-n", 3, program=program, SLURM_PROCID="7", SLURM_STEP_NODELIST="a")[0] == 0
    hosts = [find_hosts(eval((tmp_path / str(rank)).read_text())) for rank in range(3)]
    assert [(each.rank, each.n_processes) for each in hosts] == [(0, 3), (1, 3), (2, 3)]
    assert len({each.coordinator for each in hosts}) == 1
    assert hosts[0].coordinator.startswith("127.0.0.1:")


@pytest.mark.parametrize("processes", [2, 5])
def test_cores_are_shared_fairly(processes, tmp_path):
    program = f"open(f'{tmp_path}/{{rank}}', 'w').write(repr(os.sched_getaffinity(0)))"
    assert run("-n", processes, program=program)[0] == 0
    shares = [eval((tmp_path / str(rank)).read_text()) for rank in range(processes)]
    available = os.sched_getaffinity(0)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    if processes <= len(available):
        assert sum(sizes) == len(available)
        assert set.union(*shares) == available
    else:
        users = [sum(core in share for share in shares) for core in available]
        assert set(sizes) == {1}
        assert max(users) - min(users) <= 1


def test_emulated_devices_are_asked_for_beside_other_flags():
    code, output, _ = run(
        "-n",
        1,
        "--devices-per-process",
        6,
        program="print(os.environ['XLA_FLAGS'])",
        XLA_FLAGS="-a",
    )
    assert (code, output.split()) == (0, ["-a", "--xla_force_host_platform_device_count=6"])


def test_the_output_is_that_of_rank_0(tmp_path):
    program = "print('out', rank)\nprint('err', rank, file=sys.stderr)"
    assert run("-n", 3, program=program) == (0, "out 0\n", "err 0\n")
    assert run("-n", 3, "--logs", tmp_path / "logs", program=program) == (0, "out 0\n", "err 0\n")
    assert (tmp_path / "logs" / "rank-2.txt").read_text() in ("out 2\nerr 2\n", "err 2\nout 2\n")


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (
            "print('error: no.', file=sys.stderr); sys.exit(2)",
            2,
            "[rank 1] error: no.\nerror: rank 1",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            137,
            "rank 1 ended by SIGKILL, so all were ended.\n",
        ),
        ("raise ValueError('it broke')", 1, "[rank 1] ValueError: it broke\n"),
    ],
)
def test_if_one_ends_badly_all_are_ended_and_its_words_are_shown(end, code, said, tmp_path):
    # Rank 0 starts a process that holds its standard output: `run` waits for the end of both.
    program = f"""
if rank == 1:
    while not os.path.exists('{tmp_path}/there'):
        time.sleep(0.01)
    {end}
if rank == 0 and os.fork():
    open('{tmp_path}/there', 'w').close()
time.sleep(3600)
"""
    found, _, errors = run("-n", 3, program=program)
    assert found == code
    assert said in errors


def test_one_that_ignores_sigterm_is_killed():
    program = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(0.3 if rank == 1 else 3600)
sys.exit(4)
"""
    assert run("-n", 2, program=program)[0] == 4


def test_what_all_ranks_say_is_shown_once():
    program = "print('error: the recipe is wrong.', file=sys.stderr)\nsys.exit(2)"
    assert run("-n", 3, program=program) == (2, "", "error: the recipe is wrong.\n")


@pytest.mark.parametrize(("codes", "code"), [((0, 75, 75), 75), ((75, 0, 0), 75), ((75, 75, 3), 3)])
def test_stopped_but_saved_is_no_failure_and_its_exit_code_is_passed(codes, code):
    program = f"time.sleep(0.2 * rank)\nsys.exit({codes}[rank])"
    assert run("-n", 3, program=program)[0] == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_rank(number, tmp_path):
    program = f"""
def stop(number, _):
    open(f'{tmp_path}/{{rank}}', 'w').write(str(int(number)))
    sys.exit(75)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
print('ready', flush=True)
open(f'{tmp_path}/ready-{{rank}}', 'w').close()
while True:  # a signal just before one long sleep would wait for its end
    time.sleep(0.1)
"""
    process = start("-n", 2, program=program)
    assert process.stdout.readline() == "ready\n"
    while not (tmp_path / "ready-1").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [str(int(number))] * 2


def test_if_the_launcher_is_killed_every_rank_and_what_it_started_is_asked_to_save_and_stop(
    tmp_path,
):
    # Two ranks and a process of each hold standard output: `communicate` waits for all four.
    program = f"""
def stop(number, _):
    open(f'{tmp_path}/stopped-{{rank}}-{{child == 0}}', 'w').close()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
child = os.fork()
open(f'{tmp_path}/ready-{{rank}}-{{child == 0}}', 'w').close()
while True:
    time.sleep(0.1)
"""
    process = start("-n", 2, "--logs", tmp_path / "logs", program=program)
    while len(list(tmp_path.glob("ready-*"))) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("stopped-*"))) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_with_restarts_a_run_is_started_again_until_it_is_done_or_nothing_comes_of_it(tmp_path):
    # Stands for train.py: it ends with the exit codes that are listed, one after another.
    program = tmp_path / "train.py"
    program.write_text(f"""
import os, sys
if os.environ["{RANK}"] == "0":
    open("starts", "a").write("x")
    codes = [int(code) for code in sys.argv[-1].split(",")]
    sys.exit(codes[min(len(open("starts").read()), len(codes)) - 1])
""")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")

    def starts(codes):
        (tmp_path / "starts").unlink(missing_ok=True)
        local = [sys.executable, str(LOCAL), "-n", "2", "--restarts", "2", "--"]
        command = [*local, str(program), "tiny", "--run-dir", "run", codes]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, len((tmp_path / "starts").read_text()), done.stderr

    assert starts("1,0")[:2] == (0, 2)
    code, times, said = starts("75")
    assert (code, times) == (75, 2)
    assert "2 sessions in a row have left no checkpoint after that of step 0." in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-n", "2", "--restarts", "1", "--", "true"], "--restarts is for train.py and a recipe"),
        (["-n", "2"], "program comes last"),
        (["-n", "0", "--", "true"], "must be 1 or more"),
        (["--", "true"], "--processes"),
        (["-n", "many", "--", "true"], "'many'"),
        (["-n", "2", "--", "/no/such/program"], "/no/such/program cannot be started"),
        (["-n", "2", "--logs", str(LOCAL), "--", "true"], "--logs .*local.py cannot be written"),
    ],
)
def test_wrong_input_gets_one_sentence(arguments, sentence, monkeypatch, capsys):
    monkeypatch.syspath_prepend(LOCAL.parent)
    monkeypatch.setattr(sys, "argv", ["local.py", *arguments])
    import local
    from command import run_program

    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as stop:
        run_program(local.main)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert stop.value.code == 2
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize(
    "script", sorted((ROOT / "launch" / "cluster").glob("*.sh")), ids=lambda path: path.name
)
def test_job_scripts_are_valid_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
