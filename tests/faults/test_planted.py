"""What planted faults lead to is what `docs/faults.md` says."""

import pytest
from planted import FAULTS, Bench
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
