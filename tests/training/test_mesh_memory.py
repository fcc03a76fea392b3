"""What a device needs in memory, as the compiled step tells: the promises of each parallelism."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("mesh_memory.py")
# What `mesh_memory.py` compiles: rows, positions, width, layers; fp32.
STREAM = 4 * 128 * 48 * 4
LAYERS = 2


@pytest.fixture(scope="module")
def memory(tmp_path_factory, run_emulated):
    """Bytes of a device, by case and kind."""
    out = tmp_path_factory.mktemp("memory") / "memory.json"
    run_emulated(PROGRAM, 4, out)
    return json.loads(out.read_text())


def test_1f1b_needs_no_more_for_more_micro_batches_and_gpipe_does(memory):
    def growth(kind):
        return memory[f"{kind}, 8"]["temporaries"] - memory[f"{kind}, 4"]["temporaries"]

    # The tables of the schedule have a column of numbers a tick.
    assert growth("1f1b") < 4096
    # Four micro-batches more, of each the input of a layer and of its five products at least.
    assert growth("gpipe") > 4 * 6 * STREAM


def test_1f1b_needs_less_than_gpipe_where_micro_batches_outnumber_stages(memory):
    assert memory["1f1b, 4"]["temporaries"] < memory["gpipe, 4"]["temporaries"]


def test_sequence_parallelism_shares_what_lies_between_the_products(memory):
    saved = memory["tensor"]["temporaries"] - memory["tensor, sequence"]["temporaries"]
    # A layer keeps the inputs of its two norms; of four devices each has a quarter.
    assert saved > LAYERS * 2 * STREAM * 3 / 4


@pytest.mark.parametrize("data", [2, 4])
def test_zero1_divides_the_optimizers_state_by_the_replicas(memory, data):
    found = memory[f"data {data}"]
    state = found["arguments"] - found["weights"] - found["tokens"]
    # Mean and square of every weight, and a few counters.
    assert state == pytest.approx(2 * found["weights"] / data, abs=64)


def test_a_device_needs_no_more_however_many_replicas_there_are(memory):
    two, four = (memory[f"data {n}"]["temporaries"] for n in (2, 4))
    assert four <= two * 1.001
