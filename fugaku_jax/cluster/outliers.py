"""Which of many alike are far off, by statistics that these themselves do not move."""

from collections.abc import Sequence

import numpy as np

DEVIATIONS = 5.0
"""Standard deviations beyond which one is far off, as the median absolute deviation tells them."""
SHARE = 0.25
"""How much slower than the median one must be at least, as a share of that."""


def slow_ones(seconds: Sequence[float]) -> list[int]:
    """Return the numbers of those that take far longer than the median, the slowest first.

    Three are needed to tell which is far off.
    """
    values = np.asarray(seconds, np.float64)
    if values.size < 3:
        return []
    median = np.median(values)
    # 1.4826: of a normal distribution, the standard deviation is so many times the median one.
    spread = 1.4826 * np.median(np.abs(values - median))
    bound = median + max(DEVIATIONS * spread, SHARE * median)
    return [int(i) for i in np.argsort(-values, kind="stable") if values[i] > bound]
