"""What planted faults lead to is what `docs/faults.md` says."""

import pytest
from full_disk import plant_full_disks
from planted import FAULTS, Bench
from planted_in_processes import plant
from small_config import make_config
from table import row, rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Where faults are planted."""
    folder = tmp_path_factory.mktemp("faults")
    return Bench(make_config(folder), folder)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen_and_loses_what_the_page_says(name, bench):
    assert row(name, FAULTS[name](bench)) in rows()


def test_a_full_disk_loses_what_the_page_says_and_a_run_goes_on_only_if_that_is_counted(bench):
    for name, (seen, why_not) in plant_full_disks(bench).items():
        assert row(name, seen) in rows()
        counts = "checkpoint" in name
        assert bool(why_not) != counts
        assert counts or "restarts.json cannot be written (No space left on device)" in why_not


def test_what_befalls_one_of_two_processes_is_seen_and_loses_what_the_page_says(bench):
    for name, seen in plant(bench).items():
        assert row(name, seen) in rows()
