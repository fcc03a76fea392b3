"""The benchmark of kernels works at toy size; its figures are for `launch/bench.py`."""

import numpy as np
import pytest
from kernels import Product, operands, products, run


def test_products_are_measured_beside_xla_and_pytorch():
    told: list[str] = []
    cases = [Product(8, 16, 48), Product(8, 16, 48, "bfloat16", transpose_a=True, transpose_b=True)]
    rows = run(cases, rounds=1, say=told.append)
    assert [row["contender"] for row in rows] == ["float32 8x16x48 nn", "bfloat16 8x16x48 tt"]
    assert len(told) == 2
    for row in rows:
        figures = [value for name, value in row.items() if name != "contender"]
        assert min(figures) > 0
        assert row["of_peak"] < 1


def test_operands_lie_as_the_product_reads_them():
    x, y = operands(Product(2, 3, 5, transpose_a=True))
    assert (x.shape, y.shape) == ((3, 2), (3, 5))
    assert x.dtype == y.dtype == np.float32


def test_each_product_of_a_block_is_there_forward_and_for_both_gradients():
    cases = list(products("float32"))
    assert len({case.name for case in cases}) == len(cases) == 24
    # Whatever is transposed, the three of a map do as many operations.
    assert all(len({case.flops for case in cases[i : i + 3]}) == 1 for i in range(0, 24, 3))


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="float12"):
        run([Product(1, 1, 1, "float12")], rounds=1)
