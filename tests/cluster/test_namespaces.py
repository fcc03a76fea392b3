"""Four hosts with addresses of their own, as far as processes can tell: network namespaces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture
def four_hosts(unshare, tmp_path):
    """Run the reduce program on four hosts that find names and addresses in the given table."""

    def run(names: dict[str, str]) -> subprocess.CompletedProcess[str]:
        table = tmp_path / "hosts"
        table.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
        program = [sys.executable, str(HERE / "reduce_program.py")]
        return subprocess.run(
            [*unshare, "bash", str(HERE / "four_hosts.sh"), str(table), *program],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "FUGAKU_JAX_TIMEOUT": "100"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run


NAMES = {f"node{i}": f"10.7.0.{i + 1}" for i in range(4)}


def test_four_hosts_with_addresses_of_their_own_add_up(four_hosts):
    done = four_hosts(NAMES | {"localhost": "127.0.0.1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sum 10.0 over 4 devices of 4 processes") == 4


def test_a_host_whose_own_name_is_loopback_is_named_before_gloo_hangs(four_hosts):
    # Debian writes 127.0.1.1 for the host's own name; here node2 stands for all such hosts.
    done = four_hosts(NAMES | {"node2": "127.0.1.1"})
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 4
    assert "node2 is 127.0.1.1 on rank 2" in done.stderr
