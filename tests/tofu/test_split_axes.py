"""Routes know the links of an axis that was split, as the network model counts them."""

from fractions import Fraction

import pytest
from round_machine import network

from fugaku_jax.collectives.routes import plan_routes, wires_of
from fugaku_jax.tofu.links import NetworkMesh, Pattern, traffic
from fugaku_jax.tofu.network import collective_seconds


@pytest.mark.parametrize(
    ("split", "axes", "most"),
    [
        # Seconds of 1.29 GB on Fugaku's links, modelled; without looking 0.543, 0.136 and 0.197.
        ((("x0", 3), ("x1", 8)), ("x0", "y", "z", "a"), 0.110),
        ((("x0", 8), ("x1", 3)), ("x1", "y", "z", "a"), 0.085),
        ((("x0", 2), ("x1", 12)), ("x1", "z"), 0.140),
    ],
    ids=["eight hops at a time", "three neighbours", "twelve neighbours"],
)
def test_routes_look_at_the_links_that_parts_of_an_axis_have(split, axes, most):
    fugaku = network("torus", (24, 2, 24, 2, 3, 2), link_bytes_per_second=6.34e9)
    parts = (*split, ("y", 2), ("z", 24), ("a", 2), ("b", 3), ("c", 2))
    sizes = tuple(dict(parts)[axis] for axis in axes)
    seconds = [
        collective_seconds(fugaku, parts, axes, "all-reduce", 1.29e9, routes).seconds
        for routes in (plan_routes(sizes, wires_of(parts, axes)), plan_routes(sizes))
    ]
    assert seconds[0] < most < seconds[1]


def test_what_the_links_of_a_part_carry_is_what_the_network_model_counts():
    parts = (("x0", 3), ("x1", 8), ("y", 2), ("z", 24))
    loads = {wire.axis: wire.load for wire in wires_of(parts, ("y", "z"))}
    assert loads == {"y": 1, "z": Fraction(1, 2)}
    whole = network("torus", (24, 2, 24, 1, 1, 1))
    for axis in ("x0", "x1", "y", "z"):
        counted = dict.fromkeys(("+", "-"), 0.0)
        for way in (1, -1):  # half of what is sent each way
            found = traffic(NetworkMesh(whole, parts), (axis,), Pattern("shift", way))
            for link, messages in found.loads:
                if link[0] == axis[0]:
                    counted[link[1]] += messages / 2
        (wire,) = wires_of(parts, (axis,))
        assert max(counted.values()) == wire.load
