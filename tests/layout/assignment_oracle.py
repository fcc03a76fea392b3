"""Every way to give mesh axes to kinds of parallelism, and its costs counted on the devices."""

import itertools
import math

from fugaku_jax.layout.assignment import Part
from fugaku_jax.layout.factors import KINDS


def divisors(number):
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def coordinates(parts, indices):
    """Where on the six axes the device is that has these indices along the parts."""
    place = dict.fromkeys("xyzabc", 0)
    for part, index in zip(parts, indices, strict=True):
        place[part.name[0]] = place[part.name[0]] * part.size + index
    return tuple(place.values())


def hops(shape, one, other):
    gaps = [abs(here - there) for here, there in zip(one, other, strict=True)]
    return sum(min(gap, size - gap) for gap, size in zip(gaps, shape, strict=True))


def group(parts, wanted):
    """The devices of one group, in the order of their ranks: all indices of the wanted parts."""
    ranges = [range(part.size) if wanted(part) else [0] for part in parts]
    return [coordinates(parts, indices) for indices in itertools.product(*ranges)]


def cost(shape, parts):
    """The six costs, counted on the devices themselves."""

    def walk(devices, closed):
        order = [*devices, devices[0]] if closed else devices
        return sum(hops(shape, *pair) for pair in itertools.pairwise(order))

    def around(axes):
        tensor = [part for part in parts if part.kind == "tensor" and part.name[0] in axes]
        return sum(walk(group(parts, one.__eq__), closed=True) for one in tensor)

    sizes = dict(zip("xyzabc", shape, strict=True))
    data = [part for part in parts if part.kind == "data"]
    return (
        around("xyz"),
        len(parts) - 6,
        around("xyzabc"),
        walk(group(parts, lambda part: part.kind == "context"), closed=True),
        sum(part.size < sizes[part.name[0]] for part in data),
        walk(group(parts, lambda part: part.kind == "pipeline"), closed=False),
    )


def diameter(shape, parts):
    """Hops between the two devices of a tensor group that are farthest apart."""
    devices = group(parts, lambda part: part.kind == "tensor")
    return max(hops(shape, *pair) for pair in itertools.product(devices, devices))


def ways(name, size, kinds=KINDS):
    """All ways to split an axis among kinds, as tuples of parts."""
    if size == 1:
        return [(Part(name, 1, "data"),)]
    found = []
    for count in range(1, len(kinds) + 1):
        for order in itertools.permutations(kinds, count):
            for sizes in itertools.product(divisors(size)[1:], repeat=count):
                if math.prod(sizes) == size:
                    names = [name] if count == 1 else [f"{name}{i}" for i in range(count)]
                    found.append(tuple(map(Part, names, sizes, order)))
    return found


def every_assignment(shape, wanted):
    kinds = [kind for kind in KINDS if wanted[kind] > 1]
    options = [ways(name, size, kinds) for name, size in zip("xyzabc", shape, strict=True)]
    for chosen in itertools.product(*options):
        parts = tuple(itertools.chain(*chosen))
        if all(
            math.prod(part.size for part in parts if part.kind == kind) == wanted[kind]
            for kind in KINDS
        ):
            yield parts
