"""The native product is held to float64 NumPy and to its twin, on one device and shared."""

import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from narrow import in_fp16

from fugaku_jax.kernels import native
from fugaku_jax.kernels.activation import reference_gelu
from fugaku_jax.kernels.matmul import _plan, einsum

DTYPES = ("float32", "bfloat16", "float16")
EVERYWHERE = PartitionSpec()
BLOCK = 48
"""As many products at most are added in fp16, where a processor multiplies fp16 as such."""
EQUATIONS = ("mk,kn->mn", "km,kn->mn", "mk,nk->mn", "km,nk->mn", "bmk,bnk->bmn", "mck,nck->mn")


@pytest.fixture(autouse=True)
def _native_kernels():
    with native.use("native"):
        yield


def draw(seed: int, shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def contract(
    equation: str, x: jax.Array, y: jax.Array, result: str | None = None, **options: Any
) -> jax.Array:
    """Return `einsum`, compiled as one program as in a step; each of its parts would be one."""
    arrays = {name: value for name, value in options.items() if isinstance(value, jax.Array)}

    @jax.jit
    def compiled(x, y, arrays):
        return einsum(equation, x, y, EVERYWHERE, result, **(options | arrays))

    return compiled(x, y, arrays)


def error_of_sums(dtype: str, depth: int) -> float:
    """Bound what rounding adds to a sum of products of normal numbers.

    Each step in fp16 errs by 2^-11 of a sum that wanders as far as sqrt(BLOCK), and the errors of
    all steps wander too: about 2^-11 sqrt(depth BLOCK / 6). In fp32 the sum is never cut.
    """
    if in_fp16(dtype):
        return 4 * 2**-11 * np.sqrt((depth + 1) * BLOCK)
    return 4e-6 * np.sqrt(depth + 1)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(EQUATIONS),
    st.tuples(*(st.sampled_from([0, 1, 2, 7, 8, 13, 48, 64, 97]) for _ in range(5))),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.booleans(),
)
@example("mk,kn->mn", (1, 1, 600, 49, 2100), "float32", False, False)
@example("km,nk->mn", (1, 1, 9, 200, 1030), "bfloat16", True, True)
@example("km,kn->mn", (1, 1, 650, 1501, 1030), "float32", False, False)  # A packed, and kept
@example("mk,kn->mn", (1, 1, 197, 1501, 1001), "bfloat16", False, False)
@example("mk,nk->mn", (1, 1, 160, 70, 2080), "bfloat16", False, False)  # whole tiles, some rows too
@example("mk,nk->mn", (1, 1, 17, 113, 997), "float16", False, True)
@example("km,kn->mn", (1, 1, 9, 200, 1030), "float16", True, False)
def test_a_product_is_that_of_float64(equation, sizes, dtype, wide_y, wide_result):
    size = dict(zip("bcmnk", sizes, strict=True))
    left, right = equation.split("->")[0].split(",")
    x = draw(0, tuple(size[c] for c in left), dtype)
    y = draw(1, tuple(size[c] for c in right), "float32" if wide_y else dtype)
    result = "float32" if wide_result else dtype
    got = contract(equation, x, y, result)
    assert got.dtype == result
    depth = size["k"] * (size["c"] if "c" in left else 1)

    def is_product_with(y):
        want = np.einsum(equation, *(np.asarray(a, np.float64) for a in (x, y)))
        assert got.shape == want.shape
        error = np.abs(np.asarray(got, np.float64) - want)
        # Rounding of the sums, then that of the result.
        bound = error_of_sums(dtype, depth) + float(jnp.finfo(result).eps) * np.abs(want)
        return np.all(error <= bound)

    # Where the processor multiplies bf16 or fp16, a wider operand is rounded to that first.
    narrowed = dtype == "bfloat16" or in_fp16(dtype)
    assert is_product_with(y) or (narrowed and is_product_with(y.astype(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [0, 5, 1100])
def test_a_product_is_added_to_what_is_there(dtype, depth):
    x, y = draw(0, (13, depth), dtype), draw(1, (depth, 50), dtype)
    into = draw(2, (13, 50), dtype)
    got = contract("mk,kn->mn", x, y, into=into)
    want = np.float64(into) + np.float64(x) @ np.float64(y)
    eps = float(jnp.finfo(dtype).eps)
    assert got.dtype == dtype
    np.testing.assert_allclose(np.float64(got), want, rtol=eps, atol=error_of_sums(dtype, depth))


def test_the_worst_error_of_fp16_is_that_of_a_block():
    """Of n steps, each errs by 2^-11 of a sum that is no more than that of all |x y|."""
    x, y = (abs(draw(seed, (40, 3000), "float16")) for seed in (0, 1))
    got = np.float64(contract("mk,nk->mn", x, y, "float32"))
    want = np.float64(x) @ np.float64(y).T
    assert np.max(np.abs(got - want) / want) <= (BLOCK * 2**-11 if in_fp16("float16") else 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_whole_numbers_are_exact_however_long(dtype):
    """Added in fp16 alone they would stop at 2048; those of a block are below."""
    x, y = (jnp.round(draw(seed, (20, 5003), dtype).clip(-3, 3)) + 1 for seed in (0, 1))
    got = contract("mk,nk->mn", x, y, "float32")
    assert np.max(got) > 4096
    np.testing.assert_array_equal(got, np.float64(x) @ np.float64(y).T)


def test_a_sum_of_fp16_may_be_beyond_65504_if_none_of_its_blocks_is():
    x = jnp.full((9, 1000), 32, "float16")
    got = contract("mk,nk->mn", x, x, "float32")
    np.testing.assert_array_equal(got, 1_024_000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_goes_through_as_in_the_twin(value, dtype):
    x, y = np.ones((9, 20), np.float32), np.ones((20, 50), np.float32)
    x[3, 4], y[5, 6] = value, -value
    results = []
    for choice in ("native", "reference"):
        with native.use(choice):
            operands = (jnp.asarray(each, dtype) for each in (x, y))
            results.append(np.float32(contract("mk,kn->mn", *operands)))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("labels", "plan"),
    [
        (("btd", "dchk", "btchk"), (("", "bt", "d", "chk"), False, False)),
        (("btchk", "dchk", "btd"), (("", "bt", "chk", "d"), False, True)),
        (("btd", "btchk", "dchk"), (("", "d", "bt", "chk"), True, False)),
        (("bthk", "bshk", "bhts"), None),
        (("mk", "kn", "nm"), None),
    ],
)
def test_an_einsum_is_read_as_products_of_matrices_where_it_is_one(labels, plan):
    assert _plan(*labels) == plan


def test_what_is_no_product_of_matrices_is_left_to_the_twin():
    x, y = draw(0, (2, 3, 4, 5), "float32"), draw(1, (2, 6, 4, 5), "float32")
    got = contract("bthk,bshk->bhts", x, y)
    np.testing.assert_allclose(got, np.einsum("bthk,bshk->bhts", x, y), rtol=1e-5, atol=1e-5)


def test_operands_of_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="asked of arrays of 1 and 2 dimensions"):
        einsum("mk,kn->mn", jnp.ones(3), jnp.ones((3, 3)), EVERYWHERE)


def test_a_slope_of_what_is_added_to_is_refused():
    x = jnp.ones((3, 3))
    with pytest.raises(ValueError, match="only one may be given"):
        einsum("mk,kn->mn", x, x, EVERYWHERE, into=x, gelu_slope=x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [0, 5, 1100])
def test_a_bias_is_added_before_the_result_is_rounded(dtype, depth):
    x, y, bias = draw(0, (9, depth), dtype), draw(1, (depth, 3, 17), dtype), draw(2, (3, 17), "f4")
    got = contract("mk,kcn->mcn", x, y, bias=bias)
    product = np.einsum("mk,kcn->mcn", *(np.asarray(a, np.float64) for a in (x, y)))
    want = product + np.asarray(bias, np.float64)
    bound = error_of_sums(dtype, depth) + float(jnp.finfo(dtype).eps) * np.abs(want)
    assert np.all(np.abs(np.asarray(got, np.float64) - want) <= bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("equation", ["mk,kn->mn", "km,kn->mn", "mk,nk->mn", "bmk,bnk->bmn"])
@pytest.mark.parametrize("sizes", [(2, 9, 50, 0), (2, 77, 50, 1001), (1, 1, 97, 13)])
def test_gelu_of_an_operand_and_its_slope_are_those_of_float64(sizes, equation, dtype):
    size = dict(zip("bmnk", sizes, strict=True))
    left, right, out = re.split(",|->", equation)
    x, y = (draw(n, tuple(size[c] for c in each), dtype) for n, each in enumerate((left, right)))
    at = draw(2, tuple(size[c] for c in out), dtype)
    got = contract(equation, x, y, gelu_of_x=True, gelu_slope=at)
    wide = [np.asarray(a, np.float64) for a in (gelu64(np.float64(x))[0], y)]
    slope, eps = gelu64(np.float64(at))[1], float(jnp.finfo(dtype).eps)
    product, terms = (np.einsum(equation, *map(f, wide)) for f in (np.asarray, np.abs))
    # GELU is of fp32, or rounded as its operand before it is multiplied.
    bound = (error_of_sums(dtype, size["k"]) + eps * terms) * 1.2 + 2 * eps * np.abs(product)
    assert np.all(np.abs(np.float64(got) - product * slope) <= bound)


def gelu64(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return GELU by tanh and its derivative."""
    inner, slope = (np.sqrt(2 / np.pi) * y for y in (x + 0.044715 * x**3, 1 + 0.134145 * x**2))
    gate = (1 + np.tanh(inner)) / 2
    return x * gate, gate + x * slope / (2 * np.cosh(inner) ** 2)


@pytest.mark.parametrize("choice", ["native", "reference"])
def test_a_gelu_on_the_way_is_the_one_apart(choice):
    x, y, dy = draw(0, (40, 30), "float32"), draw(1, (30, 20), "float32"), draw(2, (40, 20), "f4")

    with native.use(choice), jax.default_matmul_precision("highest"):
        on_the_way = contract("mk,kn->mn", x, y, gelu_of_x=True)
        dx = contract("mn,kn->mk", dy, y, gelu_slope=x)
        apart, pullback = jax.vjp(lambda x: reference_gelu(x) @ y, x)
    np.testing.assert_allclose(on_the_way, apart, atol=1e-5)
    np.testing.assert_allclose(dx, pullback(dy)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("operands", "result", "dtype", "message"),
    [
        (((1, 2, 3), (1, 4, 5)), (1, 2, 5), "float32", "are not of these sizes"),
        (((2, 3), (3, 5)), (2, 4), "float32", "are not of these sizes"),
        (((2, 3), (3, 5)), (2, 5), "int32", "must be float32, float16 or bfloat16"),
        (((2, 3), (3, 5), (2, 5)), (2, 5), "float32", "must be aliased with the result"),
        (((2, 3), (3, 5), (2,)), (2, 5), "float32", "the bias must be an fp32 number for each"),
        (((2, 3), (3, 5), (2, 4)), (2, 5), "float32", "the slope must be taken at numbers of the"),
        (((2, 3), (3, 5), (5,)), (2, 5), "float32", "are not of these sizes"),
    ],
)
def test_a_wrong_call_is_an_error_and_no_crash(operands, result, dtype, message):
    arrays = [jnp.ones(shape, dtype) for shape in operands]
    sizes = {"batch": 1, "rows": 2, "columns": 5, "depth": 3}
    names = ("transpose_a", "transpose_b", "gelu_of_a", "accumulate", "add_bias", "gelu_slope")
    wanted = {"aliased": "accumulate", "bias": "add_bias", "slope": "gelu_slope"}
    asked = {flag for word, flag in wanted.items() if word in message}
    flags = {name: name in asked for name in names}
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        native.call("matmul", [jax.ShapeDtypeStruct(result, dtype)], *arrays, **sizes, **flags)[
            0
        ].block_until_ready()


PROGRAM = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec
from fugaku_jax.kernels.matmul import einsum
x, y = (np.random.default_rng(i).normal(size=(700, 1500)).astype(np.float32) for i in (0, 1))
for equation in ("mk,nk->mn", "km,kn->mn"):
    for dtype in ("float32", "bfloat16"):
        z = einsum(equation, *(jnp.asarray(a, dtype) for a in (x, y)), PartitionSpec(), "float32")
        print(hashlib.sha256(np.asarray(z).tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_a_result_does_not_depend_on_the_number_of_threads():
    cores = sorted(os.sched_getaffinity(0))
    assert len(cores) > 1, "this test needs two cores"
    digests = set()
    for some in (cores[:1], cores[:2]):
        command = ["taskset", "-c", ",".join(map(str, some)), sys.executable, "-c", PROGRAM]
        digests.add(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1
