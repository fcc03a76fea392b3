"""A call of a kernel with operands or results that do not fit is an error of the call, no crash.

The functions of this project never make such a call; whoever changes them may.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fugaku_jax.kernels import native

pytestmark = pytest.mark.usefixtures("library")


def of(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


X, ROW, COLUMN, NUMBER = of(3, 5), of(5), of(3), of()
TARGETS, COUNT, TABLES, COPIES = (of(*shape, dtype="int32") for shape in ((3,), (), (3, 1), (4, 2)))
EPSILON = {"epsilon": np.float32(1e-5), "centred": True}
ADAMW = dict.fromkeys(("weight_decay", "beta1", "beta2", "epsilon"), np.float64(0.5))
PRODUCT = {"batch": 1, "rows": 2, "columns": 4, "depth": 3}
FLAGS = ("transpose_a", "transpose_b", "gelu_of_a", "accumulate", "add_bias", "gelu_slope")
PRODUCT |= dict.fromkeys(FLAGS, False)
HOW = COLUMN, TARGETS, COLUMN, COLUMN
PANELS, ONE = of(2, 1, 3, 64), of(3, 1, 5)
KEYS, VALUES = of(2, 3, 1, 5, 7), of(2, 3, 1, 7, 5)
# Operands, results, attributes, and which operand is updated where it lies.
RIGHT = {
    "layer_norm": ([X, ROW, ROW], [X], EPSILON, {}),
    "layer_norm_backward": ([X, ROW, X], [X, ROW, ROW], EPSILON, {}),
    "gelu": ([X], [X], {}, {}),
    "gelu_backward": ([X, X], [X], {}, {}),
    "softmax": ([X, TARGETS, COUNT], [X, COLUMN, COLUMN, COLUMN], {}, {0: 0}),
    "softmax_gradient": ([X, COLUMN, TARGETS, COLUMN], [X], {}, {}),
    "greatest": ([X, COUNT, COUNT], [of(3, dtype="int32"), COLUMN], {}, {}),
    "adamw": (
        [X, X, X, X, NUMBER, of(dtype="bool"), COUNT, NUMBER],
        [X, X, X],
        ADAMW,
        {0: 0, 1: 1, 2: 2},
    ),
    "sum_of_squares": ([X], [NUMBER], {}, {}),
    "matmul": ([of(1, 2, 3), of(1, 3, 4)], [of(1, 2, 4)], PRODUCT, {}),
    "panels": (
        [of(4, 3), PANELS, COUNT, COUNT, of(2, 9)],
        [of(4, 9)],
        {"rows": 4, "columns": 9, "add_bias": True},
        {},
    ),
    "draw": ([X, COUNT, *HOW], [of(3, dtype="int32")], {}, {}),
    "cached_attention": (
        [of(3, 2, 5), ONE, ONE, KEYS, VALUES, COUNT, TARGETS, TABLES, COPIES],
        [of(3, 2, 5), KEYS, VALUES],
        {},
        {3: 1, 4: 2},
    ),
}
NARROW, WHOLE = of(3, 5, dtype="float16"), of(3, 5, dtype="int32")
OTHER, FLAT = of(5, 3), of(15)
# Each a right call, but for these operands and results, by number.
WRONG = [
    ("layer_norm", {0: NUMBER, 1: of(0), 2: of(0)}, {0: NUMBER}),
    ("layer_norm", {0: OTHER}, {}),
    ("layer_norm", {}, {0: NARROW}),
    ("layer_norm", {0: WHOLE}, {0: WHOLE}),
    ("layer_norm", {1: of(4)}, {}),
    ("layer_norm", {2: of(6)}, {}),
    ("layer_norm", {1: of(5, dtype="float16")}, {}),
    ("layer_norm_backward", {0: NUMBER, 1: of(0), 2: NUMBER}, {0: NUMBER, 1: of(0), 2: of(0)}),
    ("layer_norm_backward", {2: of(2, 5)}, {}),
    ("layer_norm_backward", {2: NARROW}, {}),
    ("layer_norm_backward", {1: of(6)}, {}),
    ("layer_norm_backward", {}, {0: OTHER}),
    ("layer_norm_backward", {}, {1: of(4)}),
    ("layer_norm_backward", {}, {2: of(5, dtype="bfloat16")}),
    ("gelu", {0: WHOLE}, {0: WHOLE}),
    ("gelu", {}, {0: of(3, 4)}),
    ("gelu", {}, {0: NARROW}),
    ("gelu_backward", {1: FLAT}, {}),
    ("gelu_backward", {1: NARROW}, {}),
    ("gelu_backward", {}, {0: of(2, 5)}),
    ("softmax", {0: FLAT}, {0: FLAT}),
    ("softmax", {0: NARROW}, {0: NARROW}),
    ("softmax", {1: of(2, dtype="int32")}, {}),
    ("softmax", {1: COLUMN}, {}),
    ("softmax", {2: TARGETS}, {}),
    ("softmax", {}, {1: of(2)}),
    ("softmax", {}, {2: of(4)}),
    ("softmax", {}, {3: of(0)}),
    ("softmax_gradient", {0: FLAT}, {0: FLAT}),
    ("softmax_gradient", {1: of(2)}, {}),
    ("softmax_gradient", {2: of(4, dtype="int32")}, {}),
    ("softmax_gradient", {3: of(0)}, {}),
    ("softmax_gradient", {}, {0: of(3, 6)}),
    ("softmax_gradient", {}, {0: WHOLE}),
    ("greatest", {0: FLAT}, {}),
    ("greatest", {0: NARROW}, {}),
    ("greatest", {1: TARGETS}, {}),
    ("greatest", {2: TARGETS}, {}),
    ("greatest", {}, {0: of(2, dtype="int32")}),
    ("greatest", {}, {1: of(4)}),
    ("adamw", {3: OTHER}, {}),
    ("adamw", {3: WHOLE}, {}),
    ("adamw", {1: FLAT}, {1: FLAT}),
    ("adamw", {0: NARROW, 1: NARROW, 2: NARROW}, {0: NARROW, 1: NARROW, 2: NARROW}),
    ("adamw", {4: ROW}, {}),
    ("adamw", {5: COUNT}, {}),
    ("sum_of_squares", {0: WHOLE}, {}),
    ("sum_of_squares", {}, {0: ROW}),
    ("matmul", {0: of(1, 2, 4)}, {}),
    ("matmul", {1: of(2, 3, 4)}, {}),
    ("matmul", {}, {0: of(1, 2, 3)}),
    ("matmul", {}, {0: of(1, 2, 4, dtype="float16")}),
    ("matmul", {2: of(1, 2, 4)}, {}),  # to add to, but it is not the result
    ("panels", {0: of(4, 4)}, {}),
    ("panels", {0: of(4, 3, dtype="float16")}, {}),
    ("panels", {1: of(2, 2, 3, 64)}, {}),
    ("panels", {1: of(2, 1, 3, 32)}, {}),
    ("panels", {1: of(1, 3, 64)}, {}),
    ("panels", {1: of(0, 1, 3, 64), 4: of(0, 9)}, {}),
    ("panels", {2: ROW}, {}),
    ("panels", {3: ROW}, {}),
    ("panels", {4: of(9)}, {}),
    ("panels", {4: of(2, 9, dtype="float16")}, {}),
    ("panels", {1: of(2, 1, 16, 256, dtype="int8")}, {}),  # has no scales
    ("panels", {1: of(2, 1, 3, 64, dtype="bfloat16")}, {}),
    ("panels", {0: of(4, 3, dtype="bfloat16"), 1: of(2, 1, 3, 64, dtype="bfloat16")}, {}),
    ("panels", {0: of()}, {}),
    ("panels", {}, {0: of(4, 64)}),
    ("panels", {}, {0: of(4, 9, dtype="float16")}),
    ("draw", {0: FLAT}, {}),
    ("draw", {1: of(3, dtype="int32")}, {}),
    ("draw", {2: of(2)}, {}),
    ("draw", {3: of(3)}, {}),
    ("draw", {4: of(4)}, {}),
    ("draw", {5: of(3, 1)}, {}),
    ("draw", {}, {0: of(2, dtype="int32")}),
    ("cached_attention", {0: of(3, 2, 4)}, {0: of(3, 2, 4)}),
    ("cached_attention", {0: of(2, 2, 5)}, {0: of(2, 2, 5)}),
    ("cached_attention", {0: of(3, 5)}, {0: of(3, 5)}),
    ("cached_attention", {1: of(3, 2, 5)}, {}),
    ("cached_attention", {2: of(3, 1, 4)}, {}),
    ("cached_attention", {0: of(3, 2, 5, dtype="bfloat16")}, {0: of(3, 2, 5, dtype="bfloat16")}),
    ("cached_attention", {6: of(2, dtype="int32")}, {}),
    ("cached_attention", {7: of(2, 1, dtype="int32")}, {}),
    ("cached_attention", {7: of(3, dtype="int32")}, {}),
    ("cached_attention", {3: of(2, 3, 1, 4, 7)}, {1: of(2, 3, 1, 4, 7)}),
    ("cached_attention", {3: of(2, 3, 1, 5, 6)}, {1: of(2, 3, 1, 5, 6)}),
    ("cached_attention", {8: of(4, 1, dtype="int32")}, {}),
    ("cached_attention", {8: of(2, dtype="int32")}, {}),
    ("cached_attention", {4: of(2, 4, 1, 7, 5)}, {2: of(2, 4, 1, 7, 5)}),
    ("cached_attention", {4: of(2, 3, 7, 5)}, {2: of(2, 3, 7, 5)}),
]


def call(function, operands, results, aliases=None, **attributes):
    """Make the right call, but for what is given."""
    usual = RIGHT[function]
    given, wanted = ({**dict(enumerate(usual[i])), **(operands, results)[i]} for i in range(2))
    return native.call(
        function,
        list(wanted.values()),
        *(jnp.ones(x.shape, x.dtype) for x in given.values()),
        aliases=usual[3] if aliases is None else aliases,
        **(usual[2] | attributes),
    )


@pytest.mark.parametrize("function", RIGHT)
def test_the_right_call_is_one(function):
    jax.block_until_ready(call(function, {}, {}))


@pytest.mark.parametrize(("function", "operands", "results"), WRONG)
def test_what_does_not_fit_is_refused(function, operands, results):
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(call(function, operands, results))


@pytest.mark.parametrize("function", ["softmax", "adamw", "cached_attention"])
def test_what_is_to_be_updated_where_it_lies_must_be(function):
    with pytest.raises(jax.errors.JaxRuntimeError, match="must be aliased"):
        jax.block_until_ready(call(function, {}, {}, aliases={}))


def test_a_product_has_no_negative_sizes():
    with pytest.raises(jax.errors.JaxRuntimeError, match="not of these sizes"):
        jax.block_until_ready(call("matmul", {}, {}, rows=-2, columns=-4, depth=-3))


def test_a_missing_operand_is_refused():
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(native.call("gelu_backward", [X], jnp.ones((3, 5))))
