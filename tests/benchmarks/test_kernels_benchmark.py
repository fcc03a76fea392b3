"""The benchmark of kernels works at toy size; its figures are for `launch/bench.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.benchmarks import kernels
from fugaku_jax.benchmarks.attentions import Attention, attentions
from fugaku_jax.benchmarks.kernels import compare, machine, run
from fugaku_jax.benchmarks.products import Product, products
from fugaku_jax.benchmarks.updates import Update
from fugaku_jax.errors import InputError
from fugaku_jax.kernels import native

pytestmark = pytest.mark.slow

CASES = [
    Product(8, 16, 48),
    Product(8, 16, 48, "bfloat16", transpose_a=True, transpose_b=True),
    Attention(24, batch=1, heads=2, head_dim=8),
    Attention(24, "bfloat16", batch=1, heads=2, head_dim=8),
    Update(layers=1, width=16, vocab_size=32),
]


def test_every_operation_is_measured_beside_xla_and_pytorch():
    told: list[str] = []
    rows = run(CASES, rounds=2, say=told.append)
    assert [row["contender"] for row in rows] == [case.name for case in CASES]
    assert len(told) == len(CASES)
    for case, row in zip(CASES, rows, strict=True):
        assert min(value for name, value in row.items() if name != "contender") > 0
        assert row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        for other in ("xla", "torch"):
            ratio = f"ratio_to_{other}"
            assert row[f"{ratio}_min"] <= row[f"{ratio}_max"]
        assert row["of_stream" if isinstance(case, Update) else "of_peak"] < 1


def test_without_pytorch_xla_is_left_to_compare_with():
    [row] = run(CASES[:1], rounds=1, contenders=("native", "xla"))
    assert "ratio_to_xla" in row
    assert not any("torch" in name for name in row)


def test_the_machine_is_measured_by_itself():
    figures = machine(rounds=1)
    speeds = {f"{name}_gigabytes_per_second" for name in ("stream", "triad")}
    assert figures.keys() == {"cores", "peak_gflops", *speeds}
    assert min(figures.values()) > 0


@pytest.mark.parametrize("in_place", [False, True])
def test_the_streams_really_stream(in_place, monkeypatch):
    monkeypatch.setattr(kernels, "STREAM_ELEMENTS", 1 << 16)
    call, moved = kernels.stream_call(in_place=in_place)
    assert moved == (4 if in_place else 3) * 4 << 16
    np.testing.assert_array_equal(call(), np.full(1 << 16, 7))
    np.testing.assert_array_equal(call(), np.full(1 << 16, 14 if in_place else 7))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contenders_compute_the_same(case):
    ours, theirs = jax.tree.leaves(case.jax_call()()), case.torch_call()()
    # Moments, which PyTorch keeps to itself, come last.
    for x, y in zip(ours, theirs, strict=False):
        y = y.detach().float().numpy()
        slack = 0.05 if x.dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(np.float32(x), y, rtol=slack, atol=slack)


def test_operands_lie_as_the_product_reads_them():
    x, y = Product(2, 3, 5, transpose_a=True).operands()
    assert (x.shape, y.shape) == ((3, 2), (3, 5))
    assert x.dtype == y.dtype == np.float32


def test_each_product_of_the_models_is_there_forward_and_for_both_gradients():
    cases = list(products("float32"))
    assert len({case.name for case in cases}) == len(cases) == 30
    # Whatever is transposed, the three of a map do as many operations.
    assert all(len({case.work for case in cases[i : i + 3]}) == 1 for i in range(0, 30, 3))


def test_attention_is_compared_at_two_lengths():
    assert [case.length for case in attentions("bfloat16")] == [512, 2048]


def test_an_update_is_of_eighty_million_weights():
    assert 80e6 < Update().parameters < 82e6


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="float12"):
        run([Product(1, 1, 1, "float12")], rounds=1)


def test_nothing_is_compared_without_kernels_or_rounds(monkeypatch):
    with pytest.raises(InputError, match="rounds is 0"):
        compare(rounds=0)
    monkeypatch.setattr(native, "loaded", lambda: None)
    with pytest.raises(InputError, match="no native kernels"):
        compare()


def test_all_groups_stand_beside_the_machine(monkeypatch):
    monkeypatch.setattr(kernels, "products", lambda dtype: [Product(8, 16, 48, dtype)])
    monkeypatch.setattr(kernels, "attentions", lambda dtype: [Attention(24, dtype, 1, 2, 8)])
    monkeypatch.setattr(kernels, "Update", lambda: CASES[-1])
    figures = compare(rounds=1, group="adamw")
    assert figures.keys() == {"machine", "adamw"}
    assert [row["contender"] for row in figures["adamw"]] == [CASES[-1].name]
    monkeypatch.setattr(kernels, "run", lambda cases, *_: cases)  # which that has shown to work
    figures = compare(rounds=1)
    assert figures.keys() == {"machine", *kernels.GROUPS}
    assert [len(figures[name]) for name in kernels.GROUPS] == [2, 2, 1]
