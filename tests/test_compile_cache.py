"""Compiled programs on disk: what is kept, and what is not trusted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fugaku_jax.compile_cache import VARIABLE, CheckedCache

HERE = Path(__file__).parent
LOCAL = HERE.parent / "launch" / "cluster" / "local.py"
PROGRAM = """
import jax, jax.numpy as jnp, logging, sys
from fugaku_jax.compile_cache import use_compile_cache
use_compile_cache()
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))[0, 0])
print(sum(name.endswith("cache_hits") for name in hits))
"""


def compile_once(folder):
    """Return what the program computes, and how much of it was compiled before."""
    variables = os.environ | {VARIABLE: str(folder)}
    del variables["JAX_COMPILATION_CACHE_DIR"]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True
    )
    assert not run.stderr
    result, hits = run.stdout.split()
    return result, int(hits)


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_a_damaged_entry_is_compiled_anew(tmp_path):
    result, hits = compile_once(tmp_path)
    entries = list(tmp_path.glob("*/*-cache"))
    assert entries
    assert not hits
    assert compile_once(tmp_path) == (result, len(entries))
    damaged = bytearray(entries[0].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    entries[0].write_bytes(damaged)
    assert compile_once(tmp_path) == (result, len(entries) - 1)
    assert compile_once(tmp_path) == (result, len(entries))
    assert (entries[0].parent.stat().st_mode & 0o777) == 0o700


@pytest.mark.slow
def test_what_the_first_of_several_processes_has_kept_all_of_them_find(tmp_path):
    variables = os.environ | {VARIABLE: str(tmp_path / "compiled")}
    del variables["JAX_COMPILATION_CACHE_DIR"]
    program = [str(HERE / "compile_cache_program.py"), str(tmp_path)]
    found = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, str(LOCAL), "-n", "2", "--", *program],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.endswith("16.0\n")
        found.append([(tmp_path / f"rank-{rank}").read_text() for rank in range(2)])
    # A second rank that comes late finds it the first time.
    assert found[0][0] == "0"
    assert found[1] == ["1", "1"]


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_and_the_word_off_leave_it_at_compiling(tmp_path):
    (tmp_path / "file").write_text("")
    result, hits = compile_once(tmp_path / "file")
    assert not hits
    assert compile_once("off") == (result, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_oldest_entries_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("fugaku_jax.compile_cache.MOST_BYTES", 1000)
    cache = CheckedCache(str(tmp_path))
    for number in range(5):
        cache.put(str(number), b"x" * 300)
        os.utime(tmp_path / f"{number}-cache", (number, number))
    assert [cache.get(str(number)) for number in range(5)] == [
        None,
        None,
        b"x" * 300,
        b"x" * 300,
        b"x" * 300,
    ]
    (tmp_path / "4-cache").write_bytes(b"x" * 300)  # as a process that was killed would leave it
    assert cache.get("4") is None
    assert not (tmp_path / "4-cache").exists()
