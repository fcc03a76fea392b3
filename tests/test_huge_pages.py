"""A program starts anew with huge pages, once, and only where the kernel gives them on request."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from fugaku_jax import huge_pages
huge_pages.KERNEL = huge_pages.Path(sys.argv[1])
print("start", os.getpid(), flush=True)
huge_pages.use_huge_pages()
print(os.environ.get("GLIBC_TUNABLES", "nothing"), *sys.argv[2:])
"""
OTHER = "glibc.malloc.arena_max=4"

INSIDE = """
import runpy, sys
sys.argv = sys.argv[1:]
print("the other goes on", flush=True)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(tmp_path, kernel, given, *before):
    """Run the program; return what it prints."""
    program, offers = tmp_path / "program.py", tmp_path / "enabled"
    program.write_text(PROGRAM)
    if kernel:
        offers.write_text(kernel)
    environ = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, *before, program, offers, "an argument", "東京"],
        env=environ | ({"GLIBC_TUNABLES": given} if given else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("given", ["", OTHER])
def test_a_program_starts_once_more_as_the_same_process_with_its_arguments(tmp_path, given):
    first, second, end = run(tmp_path, "always [madvise] never\n", given)
    assert first == second
    assert end == f"{given}:glibc.malloc.hugetlb=1 an argument 東京".lstrip(":")


@pytest.mark.parametrize(
    ("kernel", "given"),
    [
        ("[always] madvise never\n", OTHER),
        ("always madvise [never]\n", OTHER),
        (None, OTHER),
        ("always [madvise] never\n", "glibc.malloc.hugetlb=0"),
    ],
)
def test_it_goes_on_as_it_is_where_that_is_of_no_use_or_the_user_has_said_so(
    tmp_path, kernel, given
):
    assert run(tmp_path, kernel, given)[1:] == [f"{given} an argument 東京"]


def test_a_program_inside_another_as_in_a_notebook_does_not_start_that_anew(tmp_path):
    lines = run(tmp_path, "always [madvise] never\n", OTHER, "-c", INSIDE)
    assert [line.split()[0] for line in lines] == ["the", "start", OTHER]
