"""Batch systems run the same tasks: with programs in their place that do what is handed in."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import batch_systems
import pytest
from prepared_corpora import everything
from raw_corpus import jsonl, row, story

from fugaku_jax.corpora.engines import run_on_cluster
from fugaku_jax.corpora.plan import make_plan
from fugaku_jax.corpora.recipe import CorpusInput, CorpusRecipe, JapaneseQuality
from fugaku_jax.errors import InputError

ROOT = Path(__file__).parents[2]
RECIPE = """
from fugaku_jax.corpora.recipe import CorpusInput, CorpusRecipe, JapaneseQuality

def two_parts():
    texts = CorpusInput("texts", ("a.jsonl",), "ja", quality=JapaneseQuality())
    return CorpusRecipe((texts,), part_bytes={part_bytes})
"""


@pytest.fixture
def folder(tmp_path):
    """A file that two tasks share, with copies in it, and its recipe."""
    texts = [story(seed) for seed in range(60)] + [story(2), story(3).replace("した", "なる", 1)]
    path = jsonl(tmp_path / "a.jsonl", [row(f"doc/{i}", text) for i, text in enumerate(texts)])
    part_bytes = path.stat().st_size // 2 + 1
    (tmp_path / "two_parts.py").write_text(RECIPE.format(part_bytes=part_bytes))
    return tmp_path


def recipe_of_two_parts(folder: Path) -> CorpusRecipe:
    """As the file of the fixture says it."""
    texts = CorpusInput("texts", ("a.jsonl",), "ja", quality=JapaneseQuality())
    part_bytes = (folder / "a.jsonl").stat().st_size // 2 + 1
    return CorpusRecipe((texts,), part_bytes=part_bytes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "options", "handed_in"),
    [
        (
            "slurm",
            ["partition=cpu", "time=01:00:00", "tasks_per_job=2"],
            ["sbatch --export=ALL,RUN_OFFSET=0 /"] * 4,
        ),
        (
            "pjm",
            ["g=hp000000", "rscgrp=small", "elapse=01:00:00", "x=PJM_LLIO_GFSCACHE=/vol0004"],
            [
                "pjsub --bulk --sparam 0-0 -j -L node=1 -g hp000000 -L rscgrp=small "
                f"-L elapse=01:00:00 -x PJM_LLIO_GFSCACHE=/vol0004 {phase}.sh"
                for phase in ("clean", "compare", "link", "write")
            ],
        ),
    ],
)
def test_a_batch_system_gives_the_files_of_local_workers(
    folder, prepared, engine, options, handed_in
):
    right = everything(prepared(recipe_of_two_parts(folder), folder, "right"))
    environment = os.environ | batch_systems.install(folder / "batch")
    command = [sys.executable, str(ROOT / "launch/data.py"), "prepare", "two_parts.py"]
    command += ["--out", "out", "--workers", "2", "--engine", engine, "--engine-option", *options]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    said = [path.read_text() for path in (folder / "batch").glob("job-*.txt")]
    assert done.returncode == 0, (done.stderr, said)
    assert everything(folder / "out") == right
    calls = (folder / "batch/calls").read_text().splitlines()
    jobs = [call for call in calls if call.startswith(("sbatch --export", "pjsub"))]
    assert len(jobs) == len(handed_in)
    assert all(job.startswith(start) for job, start in zip(jobs, handed_in, strict=True)), jobs
    deadline = time.monotonic() + 60
    while list((folder / "batch/jobs").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.ray
def test_a_head_of_ray_gives_the_files_of_local_workers(folder, prepared):
    right = everything(prepared(recipe_of_two_parts(folder), folder, "right"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1", free.getsockname()[1]
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    ray += ["--node-ip-address", address[0], "--port", str(address[1]), "--num-cpus", "2"]
    head = subprocess.Popen([*ray, "--include-dashboard", "false", "--disable-usage-stats"])
    try:
        deadline = time.monotonic() + 120
        while not listens(address) and time.monotonic() < deadline:
            assert head.poll() is None
            time.sleep(0.5)
        command = [sys.executable, str(ROOT / "launch/data.py"), "prepare", "two_parts.py"]
        command += ["--out", "out", "--workers", "2", "--engine", "ray"]
        environment = os.environ | {"RAY_ADDRESS": "{}:{}".format(*address)}
        subprocess.run(command, cwd=folder, env=environment, check=True)
    finally:
        head.terminate()  # and it ends the processes that it has started
        head.wait()
    assert everything(folder / "out") == right


def listens(address: tuple[str, int]) -> bool:
    """Whether anybody does at an address."""
    with socket.socket() as client:
        return client.connect_ex(address) == 0


def run(folder: Path, engine: str, **options: object) -> None:
    """Run the recipe on a cluster."""
    plan = make_plan(recipe_of_two_parts(folder), folder / "out", folder)
    run_on_cluster(plan, engine, 2, options, ["false"], lambda *_: None)


def test_a_job_that_ends_without_its_tasks_done_is_told_of(folder, monkeypatch):
    for name, value in batch_systems.install(folder / "batch").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BATCH_FAILS", "1")
    for engine, options in (("slurm", {"partition": "cpu", "time": "1:00"}), ("pjm", {})):
        with pytest.raises(InputError, match=r"phase clean: tasks \[0, 1\] have failed; .*logs"):
            run(folder, engine, **options)
        shutil.rmtree(folder / "out")


def test_what_a_batch_system_refuses_or_does_not_know_gets_a_sentence(folder, monkeypatch):
    for name, value in batch_systems.install(folder / "batch").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"`pjsub --bulk .* says: \[ERR\.\] PJM 0057"):
        run(folder, "pjm", refused=1)
    with pytest.raises(InputError, match=r"--engine-option: slurm's .*'partition'"):
        run(folder, "slurm", time="1:00")
    with pytest.raises(InputError, match=r"--engine-option: slurm's .*'color'"):
        run(folder, "slurm", time="1:00", partition="cpu", color="red")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="there is no program `sbatch` here"):
        run(folder, "slurm", time="1:00", partition="cpu")
    with pytest.raises(InputError, match="there is no program `pjsub` here"):
        run(folder, "pjm")
