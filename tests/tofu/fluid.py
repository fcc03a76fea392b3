"""Several walks side by side as fluids: chunks that follow one another and share links max-min.

All nodes do the same at the same time, so a link of each axis and direction stands for all of them.
"""

from collections import Counter


def all_reduce(sizes, walks, chunks) -> float:
    """When an all-reduce of a buffer of 1 ends.

    Args:
        sizes: nodes along each axis, a ring whose links carry 1 a second each way.
        walks: each with its share, axes and direction.
        chunks: into which each walk's share is cut.
    """
    legs = [_legs(sizes, walk, chunks) for walk in walks]
    waiting = {
        (w, leg): chunks * (leg == 0) for w in range(len(walks)) for leg in range(len(legs[w]))
    }
    going: dict = {}  # by walk and leg, what is left of the chunk that travels
    now = 0.0
    while True:
        for place, chunks_there in waiting.items():
            if chunks_there and place not in going:
                waiting[place] -= 1
                going[place] = legs[place[0]][place[1]][0]
        if not going:
            return now
        links = {place: legs[place[0]][place[1]][1] for place in going}
        rates = _shares(links)
        step = min(left / rates[place] for place, left in going.items())
        now += step
        for place in list(going):
            going[place] -= rates[place] * step
            if going[place] < 1e-12:
                del going[place]
                following = (place[0], place[1] + 1)
                if following in waiting:
                    waiting[following] += 1


def _legs(sizes, walk, chunks) -> list:
    """Bytes and links of a chunk's legs, there and back."""
    legs, left = [], float(walk.share) / chunks
    for axis in walk.axes:
        left /= sizes[axis]
        both = [(axis, "+"), (axis, "-")]
        legs.append((left * (sizes[axis] - 1), both if sizes[axis] == 2 else [both[walk.backward]]))
    return legs + legs[::-1]


def _shares(links) -> dict:
    """Max-min fair rates of what passes these links."""
    free: Counter = Counter({link: 1.0 for each in links.values() for link in each})
    rates, open_ = {}, set(links)
    while open_:
        users = Counter(link for place in open_ for link in links[place])
        tightest = min(users, key=lambda link: free[link] / users[link])
        rate = free[tightest] / users[tightest]
        for place in [each for each in open_ if tightest in links[each]]:
            rates[place] = rate
            open_.remove(place)
            for link in links[place]:
                free[link] -= rate
    return rates
