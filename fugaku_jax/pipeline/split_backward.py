"""Split a layer's backward pass in two: the gradient of its input first, of its weights later.

The pullback of a layer is traced to the equations it consists of. Those that the gradient of the
input depends on run first. Of the others only products are worth putting off: a product whose
result is the gradient of a weight, and what follows from it. What is cheap, such as the gradients
of biases and of a normalisation's scale, is done in the first half.

Between the halves stay the operands of the products put off, as far as they depend on the gradient
that came in; for a product of `x` and `w` that is the gradient of its result. What depends on the
forward pass alone is in its residuals already, or is computed again from them if that is cheap.

Source: Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024 (arXiv:2401.10241), section 2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core
from jaxtyping import Array

_PRODUCTS = ("dot_general", "ragged_dot", "ragged_dot_general", "conv_general_dilated", "ffi_call")
"""Primitives that cost more than to read and to write; a foreign kernel counts as one."""
_CALLS = ("jit", "pjit", "remat2", "checkpoint", "closed_call", "core_call", "custom_jvp_call")
"""Primitives that are no more than the equations inside."""
_LAYOUT = ("transpose", "reshape", "squeeze", "convert_element_type", "broadcast_in_dim", "copy")
"""Primitives that can as well be applied later."""


@dataclass(frozen=True)
class Halves:
    """The two halves of a function of `values` and `dy` that returns first results and others."""

    first: Callable[[Sequence[Array], Array], tuple[list[Array], list[Array]]]
    """From values and `dy` to the first results and what the second half needs besides."""
    second: Callable[[Sequence[Array], Sequence[Array]], list[Array]]
    """From values and what the first half left to the other results."""
    deferred: list[jax.ShapeDtypeStruct]
    """Types of what the first half leaves."""


def split(
    function: Callable[[Sequence[Array], Array], Sequence[Array]],
    values: Sequence[Any],
    dy: Any,
    first_results: int = 1,
) -> Halves:
    """Split a function so that its first results come with as little work as can be.

    A product stays whole in the first half if it sits inside a loop, a conditional or a mapped
    function together with what the first results need; the results are right all the same.

    Args:
        function: from values (residuals and weights) and `dy` to a flat sequence of results.
        values: arrays or their types.
        dy: the gradient that comes in, or its type.
        first_results: how many of the results the first half has to give.
    """
    closed = jax.make_jaxpr(lambda values, dy: list(function(values, dy)))(list(values), dy)
    while mixed := _mixed(closed.jaxpr, first_results):
        closed = _inlined(closed, mixed)
    jaxpr = closed.jaxpr
    *known, incoming = jaxpr.invars
    known = [*known, *jaxpr.constvars]
    later, left = _put_off(jaxpr, first_results)
    deferred = [
        jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype, sharding=v.aval.sharding) for v in left
    ]
    now = _needed(jaxpr, [*jaxpr.outvars[:first_results], *left])

    def first(values: Sequence[Array], dy: Array) -> tuple[list[Array], list[Array]]:
        have = dict(zip(known, [*values, *closed.consts], strict=True)) | {incoming: dy}
        _evaluate(jaxpr, [jaxpr.eqns[n] for n in sorted(now)], have)
        return [_value(v, have) for v in jaxpr.outvars[:first_results]], [have[v] for v in left]

    def second(values: Sequence[Array], kept: Sequence[Array]) -> list[Array]:
        have = dict(zip(known, [*values, *closed.consts], strict=True))
        have |= dict(zip(left, kept, strict=True))
        _evaluate(jaxpr, [jaxpr.eqns[n] for n in sorted(later)], have)
        return [_value(v, have) for v in jaxpr.outvars[first_results:]]

    return Halves(first, second, deferred)


def _put_off(jaxpr: core.Jaxpr, first_results: int) -> tuple[set[int], list[Any]]:
    """Choose the equations of the second half, and the variables that it is left.

    A variable is `fixed` if it cannot be had again cheaply from values: it depends on `dy`, or on
    a product.
    """
    eqns = jaxpr.eqns
    producer = {v: n for n, eqn in enumerate(eqns) for v in eqn.outvars}
    at_once = _needed(jaxpr, jaxpr.outvars[:first_results])
    fixed, late, from_late = {jaxpr.invars[-1]}, set(), set()
    for n, eqn in enumerate(eqns):
        inputs = _variables(eqn.invars)
        if _has_product(eqn) or inputs & fixed:
            fixed.update(eqn.outvars)
        if n not in at_once and (_has_product(eqn) or inputs & from_late):
            late.add(n)
            from_late.update(eqn.outvars)

    second, left = set(late), {}
    wanted = [v for n in late for v in eqns[n].invars] + jaxpr.outvars[first_results:]
    while wanted:
        v = wanted.pop()
        if isinstance(v, core.Literal) or v in from_late or v in left:
            continue
        n = producer.get(v)
        if v in fixed and (n is None or not _is_layout(eqns[n])):
            left[v] = None
        elif n is not None and n not in second:
            second.add(n)
            wanted += eqns[n].invars
    return second, list(left)


def _is_layout(eqn: core.JaxprEqn) -> bool:
    """Whether it only rearranges one array, which is no larger before."""
    inputs = _variables(eqn.invars)
    if eqn.primitive.name not in _LAYOUT or len(inputs) != 1:
        return False
    (before,), (after,) = inputs, eqn.outvars
    return _bytes(before) <= _bytes(after)


def _mixed(jaxpr: core.Jaxpr, first_results: int) -> set[int]:
    """Return the calls with products of which the first results need some outputs but not all."""
    at_once = _needed(jaxpr, jaxpr.outvars[:first_results])
    read = _variables(jaxpr.outvars[:first_results])
    for n in at_once:
        read |= _variables(jaxpr.eqns[n].invars)
    return {
        n
        for n in at_once
        if jaxpr.eqns[n].primitive.name in _CALLS
        and any(v not in read and not isinstance(v, core.DropVar) for v in jaxpr.eqns[n].outvars)
        and _has_product(jaxpr.eqns[n])
    }


def _inlined(closed: core.ClosedJaxpr, calls: set[int]) -> core.ClosedJaxpr:
    """Trace again with the equations inside of some calls in place of the calls."""
    jaxpr = closed.jaxpr

    def run(*arguments: Array) -> list[Array]:
        have = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        have |= dict(zip(jaxpr.invars, arguments, strict=True))
        for n, eqn in enumerate(jaxpr.eqns):
            if n not in calls:
                _evaluate(jaxpr, [eqn], have)
                continue
            (inner,) = _inner(eqn)
            results = core.jaxpr_as_fun(inner)(*[_value(v, have) for v in eqn.invars])
            have.update(zip(eqn.outvars, results, strict=True))
        return [_value(v, have) for v in jaxpr.outvars]

    return jax.make_jaxpr(run)(*[v.aval for v in jaxpr.invars])


def _needed(jaxpr: core.Jaxpr, results: Sequence[Any]) -> set[int]:
    """Return the equations that the results depend on."""
    wanted, needed = _variables(results), set()
    for n in reversed(range(len(jaxpr.eqns))):
        if wanted.intersection(jaxpr.eqns[n].outvars):
            needed.add(n)
            wanted |= _variables(jaxpr.eqns[n].invars)
    return needed


def _evaluate(jaxpr: core.Jaxpr, eqns: Sequence[core.JaxprEqn], have: dict[Any, Any]) -> None:
    """Run some equations, adding to what is had."""
    made = [v for eqn in eqns for v in eqn.outvars if not isinstance(v, core.DropVar)]
    read = [v for eqn in eqns for v in eqn.invars if isinstance(v, core.Var) and v in have]
    read = list(dict.fromkeys(read))
    part = jaxpr.replace(constvars=[], invars=read, outvars=made, eqns=list(eqns))
    found = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))(*[have[v] for v in read])
    have.update(zip(made, found, strict=True))


def _value(v: Any, have: dict[core.Var, Any]) -> Any:
    return v.val if isinstance(v, core.Literal) else have[v]


def _variables(them: Sequence[Any]) -> set[core.Var]:
    return {v for v in them if isinstance(v, core.Var)}


def _has_product(eqn: core.JaxprEqn) -> bool:
    inside = (inner_eqn for inner in _inner(eqn) for inner_eqn in inner.jaxpr.eqns)
    return eqn.primitive.name in _PRODUCTS or any(map(_has_product, inside))


def _inner(eqn: core.JaxprEqn) -> Iterator[core.ClosedJaxpr]:
    """Yield the equations inside an equation."""
    for leaf in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
        if _is_jaxpr(leaf):
            yield leaf if isinstance(leaf, core.ClosedJaxpr) else core.ClosedJaxpr(leaf, ())


def _is_jaxpr(x: Any) -> bool:
    return isinstance(x, (core.Jaxpr, core.ClosedJaxpr))


def _bytes(v: Any) -> int:
    return v.aval.size * v.aval.dtype.itemsize
