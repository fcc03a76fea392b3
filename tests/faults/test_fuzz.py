"""Whatever is in a file that somebody else made, it is read, or refused in a sentence."""

import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import fuzz
import fuzz_targets
import pytest
from mutations import mutated

from fugaku_jax.errors import InputError

PROGRAM = Path(__file__).with_name("fuzz.py")


@pytest.mark.slow
def test_no_reader_fails_otherwise_than_by_a_sentence(tmp_path):
    command = [sys.executable, PROGRAM, "--together", "--seed", "1", "--inputs", "150"]
    command += ["--folder", tmp_path / "fuzz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    inputs = 150 * len(fuzz_targets.TARGETS)
    assert f"{inputs:,} inputs in all, 0 faults" in done.stdout


def in_vain(data: bytes) -> None:
    """Read what is good and refuse what is not, but for one thing each."""
    if b"\x80" in data:
        eval("1 + 1")
    if b"\xff" in data:
        raise KeyError("ff")
    if b"\x7f" in data:
        raise InputError("It takes memory.") from MemoryError()
    if data != b'{"a": 1}':
        raise InputError("This is another.")


def test_what_is_neither_read_nor_a_sentence_is_found_and_kept(tmp_path, monkeypatch, capfd):
    planted = {"planted": lambda _: ([b'{"a": 1}'], in_vain)}
    monkeypatch.setattr(fuzz_targets, "TARGETS", planted)
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        counts = fuzz.work("planted", tmp_path, seed=1, first=0, most=500, seconds=60)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert counts["fault: KeyError"] > 0
    assert counts["fault: memory"] > 0
    assert counts["fault: executes"] > 0
    assert counts["refused"] > 100
    kept = [path for path in (tmp_path / "faults").iterdir() if "KeyError" in path.name]
    with pytest.raises(KeyError):
        in_vain(kept[0].read_bytes())
    assert re.search("FAULT of planted.*KeyError", capfd.readouterr().out, re.DOTALL)


def test_mutations_are_the_same_of_the_same_draw():
    seeds = [b'{"a": [1, 2, {"b": "c"}]}', b"\x00\x01\x02"]
    one, other = ([mutated(seeds, 2, True, random.Random(n)) for n in range(200)] for _ in "ab")
    assert one == other
    assert len(set(one)) > 150
