"""Programs whose output nobody reads any more."""

import subprocess
import sys
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"


def run(program, tmp_path):
    """Run a program whose output's reader goes away after a line; return its code and errors."""
    code = f"import sys\nsys.path.insert(0, {str(LAUNCH)!r})\nhere = {str(tmp_path)!r}\n{program}"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "東京\n"
    process.stdout.close()
    _, errors = process.communicate("gone\n", timeout=60)
    return process.returncode, errors


def test_a_program_that_outlives_its_readers_goes_on_to_its_end(tmp_path):
    program = """
from output import outlive_readers
sys.stdout.reconfigure(encoding="utf-8")
outlive_readers()
print("東京", flush=True)
input()
for _ in range(3):
    print("nobody", flush=True)
print("still heard", file=sys.stderr)
open(here + "/end", "w").close()
sys.exit(75)
"""
    assert run(program, tmp_path) == (75, "still heard\n")
    assert (tmp_path / "end").exists()


def test_any_other_program_ends_without_a_word(tmp_path):
    program = """
from command import run_program
sys.stdout.reconfigure(encoding="utf-8")
def main():
    print("東京", flush=True)
    input()
    for _ in range(3):
        print("nobody", flush=True)
    open(here + "/end", "w").close()
run_program(main)
"""
    assert run(program, tmp_path) == (1, "")
    assert not (tmp_path / "end").exists()
