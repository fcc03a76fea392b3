"""What a run's speed is held to: arithmetic over a clock that the test winds."""

import itertools

import jax
import pytest

from fugaku_jax.kernels import native
from fugaku_jax.processor import available_cores
from fugaku_jax.training import throughput

TIMES_FP32 = {
    # Four tiles of 16 x 16 sums of 32 products each, where 24 registers are of 16 numbers.
    ("avx512_amx", "bf16"): 4 * 16 * 16 * 32 / (24 * 16),
    ("avx512_bf16", "bf16"): 2,  # as many more of half the size fit in a register
    ("a64fx", "fp16"): 2,
}
"""By library and precision, the multiply-adds of a round over those in fp32, if there are any."""


@pytest.fixture(autouse=True)
def a_second_a_call(monkeypatch):
    """Let everything that is timed take one second."""
    monkeypatch.setattr(throughput.time, "perf_counter", itertools.count(0.0).__next__)


def test_cores_that_processes_share_count_once():
    one = (8.0, "node1", [0, 1])
    assert throughput.together([one]) == 8
    assert throughput.together([one, one, one]) == 8
    assert throughput.together([one, (4.0, "node1", [1])]) == 8
    assert throughput.together([one, (12.0, "node1", [2, 3, 8191])]) == 20
    assert throughput.together([one, (8.0, "node2", [0, 1])]) == 16


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_peak_is_that_of_the_cores_in_the_format_that_kernels_multiply(precision):
    library = native.loaded()
    peak = throughput.measure_peak(precision)
    narrow = (library, precision) in TIMES_FP32
    assert peak.of == f"{precision if narrow else 'fp32'} multiply-adds"
    wide = throughput.measure_peak("fp32")
    assert peak.flops == pytest.approx(TIMES_FP32.get((library, precision), 1) * wide.flops)
    # 10,000 rounds, each a register of at least four numbers.
    a_round = wide.flops / (2 * len(available_cores()) * 10_000)
    assert a_round >= 4
    assert a_round % 4 == 0


def test_the_peak_of_emulated_devices_is_that_of_their_cores(monkeypatch):
    expected = throughput.measure_peak("fp32")
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert throughput.measure_peak("fp32") == expected


def test_without_native_kernels_the_peak_is_xlas_product_and_says_so(monkeypatch):
    monkeypatch.setattr(native, "loaded", lambda: None)
    assert throughput.measure_peak("bf16") == throughput.Peak(2.0 * 128**3, "bf16 products of XLA")
